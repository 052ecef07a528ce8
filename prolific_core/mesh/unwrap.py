"""Texture coordinates: cut the surface into charts, flatten and pack them (xatlas)."""

from dataclasses import dataclass

import numpy as np

from prolific_core.mesh.extract import EmptyMesh


FACES_PER_CHART = 200


@dataclass(frozen=True)
class Unwrapped:
    """A mesh cut open along its seams.

    source (V',): the vertex of the uncut mesh that each is a copy of;
    faces (F, 3) int64, in the uncut mesh's order; uvs (V', 2) float32 in
    [0, 1], v up (OBJ's convention: (0, 0) is the texture's lower left corner).
    """

    source: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray


def unwrap(vertices: np.ndarray, faces: np.ndarray, texture_size: int = 1024, padding: int = 4) -> Unwrapped:
    """An atlas for one square texture of `texture_size` texels a side.

    vertices (V, 3), faces (F, 3). padding: texels between charts. The same mesh
    gives the same atlas. Raises EmptyMesh for no faces.
    """
    import xatlas

    if len(faces) == 0:
        raise EmptyMesh("the mesh to be unwrapped has no faces")
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
    return Unwrapped(source.astype(np.int64), new_faces.astype(np.int64), uvs.astype(np.float32))


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = np.asarray(vertices, np.float64)[faces].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
