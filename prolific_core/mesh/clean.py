"""From an extracted surface to a mesh fit for a file: no specks, no bad edges, few faces."""

import numpy as np

from prolific_core.mesh.extract import EmptyMesh


def clean(
    vertices: np.ndarray,
    faces: np.ndarray,
    max_faces: int = 40_000,
    *,
    component_fraction: float = 0.05,
    smoothing: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Repair, drop small pieces, smooth and decimate, with pymeshlab.

    vertices (V, 3), faces (F, 3): arrays, or tensors on the CPU. max_faces: at
    most so many afterwards (quadric edge collapse, topology kept, so a mesh of
    very many holes can end a little above). component_fraction: connected pieces
    with fewer faces than this share of the largest are dropped. smoothing:
    Taubin iterations, which keep the volume.

    Returns float32 (V', 3) and int64 (F', 3), every vertex used. The same mesh
    gives the same bytes. Raises EmptyMesh if nothing is left.
    """
    import pymeshlab

    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if len(faces) == 0:
        raise EmptyMesh("the mesh to be cleaned has no faces")
    if not np.isfinite(vertices).all():
        raise EmptyMesh("the mesh to be cleaned has vertices that are not numbers")
    work = pymeshlab.MeshSet(verbose=False)
    work.add_mesh(pymeshlab.Mesh(vertices, faces.astype(np.int32)))
    # Marching tetrahedra leave vertices that coincide to rounding (grid points
    # on the surface) and the slivers between them.
    work.meshing_merge_close_vertices(threshold=pymeshlab.PercentageValue(0.001))
    work.meshing_remove_duplicate_faces()
    work.meshing_remove_null_faces()
    _repair(work)
    _replace(work, pymeshlab, *keep_large_components(*_arrays(work), component_fraction))
    if smoothing > 0:
        work.apply_coord_taubin_smoothing(stepsmoothnum=smoothing)
    if work.current_mesh().face_number() > max_faces:
        work.meshing_decimation_quadric_edge_collapse(
            targetfacenum=max_faces, preservenormal=True, preservetopology=True, planarquadric=True, autoclean=True
        )
        _repair(work)
    work.meshing_remove_unreferenced_vertices()
    vertices, faces = _arrays(work)
    if len(faces) == 0:
        raise EmptyMesh("cleaning left no faces: the surface was only specks and slivers")
    return vertices.astype(np.float32), faces.astype(np.int64)


def keep_large_components(vertices: np.ndarray, faces: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Drops connected pieces with fewer faces than `share` of the largest; vertices stay as they are."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(faces) == 0 or share <= 0:
        return vertices, faces
    start, end = faces[:, [0, 1, 2]].reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    links = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(len(vertices),) * 2)
    _, label = connected_components(links, directed=False)
    size = np.bincount(label[faces[:, 0]])
    return vertices, faces[size[label[faces[:, 0]]] >= share * size.max()]


def _repair(work) -> None:
    work.meshing_repair_non_manifold_edges()
    work.meshing_repair_non_manifold_vertices()


def _arrays(work) -> tuple[np.ndarray, np.ndarray]:
    mesh = work.current_mesh()
    return mesh.vertex_matrix(), mesh.face_matrix()


def _replace(work, pymeshlab, vertices: np.ndarray, faces: np.ndarray) -> None:
    work.clear()
    work.add_mesh(pymeshlab.Mesh(vertices, faces.astype(np.int32)))
