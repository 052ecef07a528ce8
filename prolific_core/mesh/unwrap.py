"""Texture coordinates: xatlas cuts a surface into flat charts and packs them into one square texture."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from prolific_core.mesh.atlas import atlas
from prolific_core.mesh.extract import EmptyMesh
from prolific_core.render.mesh.raster import vertex_normals

#: Average number of faces per chart, which determines the maximum area of a chart.
FACES_PER_CHART = 1000


@dataclass(frozen=True)
class UnwrappedMesh:
    """Mesh cut along its seams, in world axes (z up).

    Attributes:
        vertices: Vertex positions (V, 3), float32; a vertex on a seam occurs once per chart.
        faces: Vertex indices (F, 3), int64.
        uvs: Texture coordinates (V, 2), float32 in [0, 1], with v pointing up: (0, 0) is the lower left corner of the
            texture, as in OBJ.
        normals: Unit normals (V, 3), float32, of the surface before it was cut, or None if they are unknown.

    Raises:
        EmptyMesh: If the mesh has no faces or a vertex position is not finite.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    uvs: Float[np.ndarray, "vertices 2"]
    normals: Float[np.ndarray, "vertices 3"] | None = None

    def __post_init__(self):
        if len(self.faces) == 0:
            raise EmptyMesh("the textured mesh has no faces")
        if not np.isfinite(self.vertices).all():
            raise EmptyMesh("all vertex positions of the textured mesh must be finite")


def unwrap(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    texture_size: int = 1024,
    margin: int = 1,
    seconds: float | None = None,
) -> UnwrappedMesh:
    """Compute texture coordinates for one square texture.

    The order of the faces and of their corners is preserved. The same mesh always gives the same atlas.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        texture_size: Height and width of the texture in texels.
        margin: Half of the minimum distance in texels between two charts.
        seconds: Time limit, for which xatlas runs in a process of its own; None for no limit.

    Returns:
        The mesh cut along the seams between charts, with texture coordinates and normals.

    Raises:
        EmptyMesh: If the mesh has no faces.
        AtlasTimeout: If xatlas has not finished in time.
    """
    if len(faces) == 0:
        raise EmptyMesh("cannot unwrap a mesh that has no faces")
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    source, new_faces, uvs = atlas(
        vertices,
        faces,
        # The time to flatten a chart is quadratic in its number of faces. This limit adds a few seams but reduces the
        # time from minutes to seconds. Smaller charts would have longer borders, which cost area of the texture.
        max_chart_area=_area(vertices, faces) / max(16, len(faces) / FACES_PER_CHART),
        resolution=texture_size,
        # The atlas becomes up to 1.4 times as large as this resolution and is scaled to the texture.
        padding=3 * margin,
        seconds=seconds,
    )
    normals = _normals(vertices, faces)
    return UnwrappedMesh(np.asarray(vertices, np.float32)[source], new_faces, uvs, normals[source])


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the smooth unit normals (V, 3) of the mesh before it is cut along seams."""
    return vertex_normals(torch.as_tensor(vertices).float(), torch.as_tensor(faces).long()).numpy()


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = np.asarray(vertices, np.float64)[faces].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
