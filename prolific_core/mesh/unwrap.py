"""Texture coordinates: cut the surface into charts, flatten and pack them (xatlas)."""

from dataclasses import dataclass

import numpy as np

from prolific_core.mesh.extract import EmptyMesh

FACES_PER_CHART = 200


@dataclass(frozen=True)
class UnwrappedMesh:
    """A mesh cut open along its seams, world axes (z up).

    vertices (V, 3) float32, seam vertices once per chart; faces (F, 3) int64;
    uvs (V, 2) float32 in [0, 1], v up (OBJ's convention: (0, 0) is the
    texture's lower left corner); normals (V, 3) float32 unit, those of the
    uncut surface, or None. Raises EmptyMesh for no faces, or positions that are
    not numbers.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    normals: np.ndarray | None = None

    def __post_init__(self):
        if len(self.faces) == 0:
            raise EmptyMesh("the textured mesh has no faces")
        if not np.isfinite(self.vertices).all():
            raise EmptyMesh("the textured mesh has vertices that are not numbers")


def unwrap(vertices: np.ndarray, faces: np.ndarray, texture_size: int = 1024, padding: int = 4) -> UnwrappedMesh:
    """An atlas for one square texture of `texture_size` texels a side.

    vertices (V, 3), faces (F, 3). padding: texels between charts. Faces keep
    their order and corners. The same mesh gives the same atlas. Raises EmptyMesh
    for no faces.
    """
    import xatlas

    if len(faces) == 0:
        raise EmptyMesh("the mesh to be unwrapped has no faces")
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32))
    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    # Flattening a chart takes time with the square of its faces; limiting them
    # to some hundreds costs a few seams and turns minutes into seconds.
    charts.max_chart_area = _area(vertices, faces) / max(16, len(faces) / FACES_PER_CHART)
    pack.resolution = texture_size
    pack.padding = padding
    pack.bilinear = True
    pack.bruteForce = False
    atlas.generate(charts, pack)
    source, new_faces, uvs = atlas[0]
    # xatlas scales u and v by the atlas's own width and height, which makes the
    # larger one touch 1; either way they are in [0, 1].
    source, normals = source.astype(np.int64), _normals(vertices, faces)
    vertices = np.asarray(vertices, np.float32)
    return UnwrappedMesh(vertices[source], new_faces.astype(np.int64), uvs.astype(np.float32), normals[source])


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Smooth unit normals (V, 3), taken before seams part the faces around a vertex."""
    import torch

    from prolific_core.render.mesh.raster import vertex_normals

    return vertex_normals(torch.as_tensor(vertices).float(), torch.as_tensor(faces).long()).numpy()


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = np.asarray(vertices, np.float64)[faces].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
