"""Depth images by Mitsuba 3, the baseline for the first hit in `prolific bench raster`.

Mitsuba's variant `scalar_rgb` traces rays with Embree on the CPU and needs no other library. Its image also contains
the distance of each hit and the pixels without one, as ours does, but it generates its rays itself.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


class MitsubaDepth:
    """Scene of one mesh in Mitsuba, which computes on one thread.

    Args:
        vertices: Vertex positions (V, 3) in world units.
        faces: Vertex indices (F, 3).
        origin: Position (3,) of the camera, which looks at the world's origin; z is up.
        fov: Vertical field of view in degrees.
        side: Height and width of the image in pixels.
    """

    def __init__(
        self,
        vertices: Float[Tensor, "vertices 3"],
        faces: Int[Tensor, "faces 3"],
        origin: Float[Tensor, "3"],
        fov: float,
        side: int,
    ):
        import drjit  # pyright: ignore[reportMissingImports]
        import mitsuba  # pyright: ignore[reportMissingImports]

        mitsuba.set_variant("scalar_rgb")
        drjit.set_thread_count(1)
        mesh = mitsuba.Mesh("object", len(vertices), len(faces))
        parameters = mitsuba.traverse(mesh)
        parameters["vertex_positions"] = vertices.flatten().numpy()
        parameters["faces"] = faces.flatten().numpy().astype(np.uint32)
        parameters.update()
        look_at = mitsuba.ScalarTransform4f().look_at(origin=origin.tolist(), target=[0, 0, 0], up=[0, 0, 1])
        film = {"type": "hdrfilm", "width": side, "height": side, "rfilter": {"type": "box"}}
        sampler = {"type": "independent", "sample_count": 1}
        sensor = {"type": "perspective", "fov": fov, "to_world": look_at, "film": film, "sampler": sampler}
        self._scene = mitsuba.load_dict(
            {"type": "scene", "object": mesh, "sensor": sensor, "integrator": {"type": "depth"}}
        )
        self._render = mitsuba.render

    def __call__(self) -> Bool[np.ndarray, "side side"]:
        """Render the scene, and return which pixels show the mesh."""
        return np.array(self._render(self._scene))[..., 0] > 0
