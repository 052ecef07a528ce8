"""Ray tracer for the meshes of the world, written as a Warp kernel with one thread per pixel.

In colour images, the colour of a face is multiplied by the sum of ambient and diffuse light, without shadows. Normal
maps show (n + 1) / 2 for the normal n in world axes, on a background of 0.5, as in the rest of the package.
"""

# Warp kernels are annotated with Warp's own types, which type checkers reject.
# pyright: basic, reportInvalidTypeForm=false

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float, Float32

from prolific_core.render.warp_launch import warp
from prolific_core.toybox.world.scene import DEFAULT_LOOK, Look, Scene

wp = warp()
wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _trace(
    mesh: wp.uint64,
    normals: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.int32),
    colours: wp.array(dtype=wp.vec3),
    camera: wp.mat44,
    tan_half: float,
    size: int,
    samples: int,
    light: wp.vec3,
    ambient: float,
    background: wp.vec3,
    as_normals: int,
    image: wp.array(dtype=wp.vec3),
):
    tid = wp.tid()
    py = tid // size
    px = tid - py * size
    origin = wp.vec3(camera[0, 3], camera[1, 3], camera[2, 3])
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(samples * samples):
        sy = k // samples
        sx = k - sy * samples
        x = (float(px) + (float(sx) + 0.5) / float(samples)) / float(size) * 2.0 - 1.0
        y = 1.0 - (float(py) + (float(sy) + 0.5) / float(samples)) / float(size) * 2.0
        local = wp.vec4(x * tan_half, y * tan_half, -1.0, 0.0)
        w = camera * local
        ray = wp.normalize(wp.vec3(w[0], w[1], w[2]))
        hit = wp.mesh_query_ray(mesh, origin, ray, 1.0e6)
        if hit.result:
            f = hit.face * 3
            n = (
                normals[faces[f]] * hit.u
                + normals[faces[f + 1]] * hit.v
                + normals[faces[f + 2]] * (1.0 - hit.u - hit.v)
            )
            n = wp.normalize(n)
            if wp.dot(hit.normal, ray) > 0.0:
                n = -n
            if as_normals == 1:
                total += (n + wp.vec3(1.0, 1.0, 1.0)) * 0.5
            else:
                total += colours[hit.face] * (ambient + (1.05 - ambient) * wp.max(wp.dot(n, light), 0.0))
        else:
            total += background
    image[tid] = total / float(samples * samples)


class Tracer:
    """Ray tracer that renders one mesh from any number of cameras.

    Args:
        scene: Mesh to render.
    """

    def __init__(self, scene: Scene):
        self._points = wp.array(scene.vertices, dtype=wp.vec3, device="cpu")
        self._faces = wp.array(scene.faces.ravel(), dtype=wp.int32, device="cpu")
        self._normals = wp.array(scene.normals, dtype=wp.vec3, device="cpu")
        self._colours = wp.array(scene.colours, dtype=wp.vec3, device="cpu")
        self._mesh = wp.Mesh(points=self._points, indices=self._faces)

    def render(
        self,
        camera: Float[np.ndarray, "4 4"],
        fov: float,
        look: Look = DEFAULT_LOOK,
        size: int = 64,
        samples: int = 2,
    ) -> Float32[np.ndarray, "{size} {size} 3"]:
        """Render one image.

        Args:
            camera: Camera-to-world matrix in OpenGL axes.
            fov: Vertical field of view, in radians.
            look: Light and background.
            size: Height and width of the image, in pixels.
            samples: Number of rays per pixel along each image axis.

        Returns:
            The sRGB image or normal map, in [0, 1].
        """
        image = wp.empty(size * size, dtype=wp.vec3, device="cpu")  # pyright: ignore[reportArgumentType]
        background = (0.5, 0.5, 0.5) if look.normals else look.background
        wp.launch(
            _trace,
            dim=size * size,
            inputs=[
                self._mesh.id,
                self._normals,
                self._faces,
                self._colours,
                wp.mat44(np.asarray(camera, np.float32)),
                float(np.tan(fov / 2)),
                size,
                samples,
                wp.vec3(*look.light),
                look.ambient,
                wp.vec3(*background),
                int(look.normals),
                image,
            ],
            device="cpu",
        )
        return np.clip(image.numpy().reshape(size, size, 3), 0, 1)


def orbit(azimuth: float, elevation: float, distance: float) -> Float[np.ndarray, "4 4"]:
    """Compute the pose of a camera that points at the origin.

    Args:
        azimuth: Angle from the front (+x), counter-clockwise as seen from above, in radians.
        elevation: Angle above the horizontal plane, in radians.
        distance: Distance from the origin.

    Returns:
        The camera-to-world matrix in OpenGL axes, with determinant +1.
    """
    ce, se, ca, sa = np.cos(elevation), np.sin(elevation), np.cos(azimuth), np.sin(azimuth)
    back = np.array([ce * ca, ce * sa, se])
    right = np.array([-sa, ca, 0.0])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(back, right), back, back * distance
    return pose
