"""Finishing of a surface into an asset: cleaning, unwrapping, and baking of its colours."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.config import ExportConfig
from prolific_core.mesh.bake import bake
from prolific_core.mesh.clean import clean
from prolific_core.mesh.unwrap import UnwrappedMesh, unwrap


@dataclass(frozen=True)
class Asset:
    """Finished mesh with its colours, once as a texture and once at its vertices.

    Attributes:
        mesh: The mesh cut along its seams, with texture coordinates and normals, in world axes.
        texture: Texture (T, T, C), float32 in [0, 1]; row 0 is the top. The channels are three of colours, or five of
            sRGB base colour, roughness and metalness.
        vertices: Vertex positions (V, 3) of the mesh before it was cut, float32.
        faces: Vertex indices (F, 3) of the same mesh, int64.
        colours: Colours or base colours (V, 3) of its vertices, float32 in [0, 1].
    """

    mesh: UnwrappedMesh
    texture: Float[np.ndarray, "size size channels"]
    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    colours: Float[np.ndarray, "vertices 3"]


@torch.no_grad()
def finish(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    colour: Callable[[Tensor], Tensor],
    config: ExportConfig,
) -> Asset:
    """Clean and unwrap a surface, and bake its colours.

    Args:
        vertices: Vertex positions (V, 3) in world axes.
        faces: Vertex indices (F, 3).
        colour: Function from world points (N, 3), on the device of `vertices`, to colours (N, 3) in [0, 1], or to
            materials (N, 5): sRGB base colour, roughness and metalness.
        config: Parameters of the export stage.

    Raises:
        EmptyMesh: No surface remains.
        AtlasTimeout: The unwrapping has not finished in time.
    """
    device = vertices.device
    points, triangles = clean(
        vertices.cpu().numpy(),
        faces.cpu().numpy(),
        config.faces,
        component_fraction=config.component_fraction,
        smoothing=config.smoothing,
    )
    mesh = unwrap(points, triangles, config.texture_size, seconds=config.unwrap_seconds)
    texture = bake(colour, mesh.vertices, mesh.faces, mesh.uvs, config.texture_size, device=device)
    at_vertices = colour(torch.from_numpy(points).to(device))[:, :3].float().clamp(0, 1).cpu().numpy()
    return Asset(mesh, texture, points, triangles, at_vertices)
