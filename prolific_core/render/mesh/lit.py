"""Lit colours of meshes whose materials are given as sRGB base colour, roughness and metalness."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from prolific_core.cameras import Cameras
from prolific_core.render.mesh.lights import Lighting
from prolific_core.render.mesh.pbr import shade
from prolific_core.render.mesh.raster import Hits, interpolate
from prolific_core.render.mesh.shading import Shader


def to_linear(colour: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Decode sRGB (IEC 61966-2-1). Values above 1 continue the curve."""
    low = colour <= 0.04045
    return torch.where(low, colour / 12.92, ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Encode linear colours as sRGB (IEC 61966-2-1). Values above 1 continue the curve."""
    low = light <= 0.0031308
    return torch.where(low, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def lit_colours(
    material: Float[Tensor, "points 5"],
    normal: Float[Tensor, "points 3"],
    to_camera: Float[Tensor, "points 3"],
    lighting: Lighting,
) -> Float[Tensor, "points 3"]:
    """Return the sRGB colours that points of a surface show.

    Args:
        material: sRGB base colour, roughness and metalness (N, 5) in [0, 1].
        normal: Unit normals (N, 3).
        to_camera: Unit directions (N, 3) towards the camera.
        lighting: The light.

    Returns:
        Colours (N, 3), at least 0. They exceed 1 where the light is brighter than white.
    """
    base, roughness, metallic = material.split([3, 1, 1], dim=-1)
    return to_srgb(shade(to_linear(base), roughness, metallic, normal, to_camera, lighting.to(material)))


def lit_shader(
    material: Callable[[Hits, Tensor], Tensor],
    normals: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    cameras: Cameras,
    lighting: Lighting,
) -> Shader:
    """Return a shader for `render_mesh` that lights the materials of a mesh.

    Args:
        material: Function from N hits and their world points (N, 3) to materials (N, 5); see `lit_colours`.
        normals: Unit normals (V, 3) of the vertices.
        faces: Vertex indices (F, 3).
        cameras: The cameras of the render.
        lighting: The light.
    """
    centres = cameras.c2w[:, :3, 3].to(normals)

    def colours(hits: Hits, points: Tensor, _: Tensor) -> Tensor:
        normal = normalize(interpolate(normals, faces, hits.face, hits.barycentrics), dim=-1)
        to_camera = normalize(centres[hits.image_index] - points, dim=-1)
        return lit_colours(material(hits, points), normal, to_camera, lighting).clamp(0, 1)

    return colours
