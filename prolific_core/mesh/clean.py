"""Cleaning of an extracted surface: repair, removal of small components, smoothing and decimation."""
# pymeshlab's compiled module has no type stubs.
# pyright: basic, reportAttributeAccessIssue=false

import numpy as np
from jaxtyping import Float, Int

from prolific_core.mesh.extract import EmptyMesh

#: Largest number of edges around a hole that is closed, and number of attempts.
LARGEST_HOLE, CLOSING_PASSES = 1000, 3


def clean(
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    max_faces: int = 40_000,
    *,
    component_fraction: float = 0.05,
    smoothing: int = 0,
) -> tuple[Float[np.ndarray, "kept 3"], Int[np.ndarray, "fewer 3"]]:
    """Repair, smooth and decimate a mesh with pymeshlab, and drop its small components.

    A mesh that was closed, with outward-facing faces, stays so. The result is bitwise reproducible.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        max_faces: Target number of faces for the decimation by quadric edge collapse (Garland and Heckbert 1997). The
            decimation preserves the topology, so a mesh with many holes can have slightly more faces.
        component_fraction: Minimum number of faces of a connected component, as a fraction of the number of faces of
            the largest component. Smaller components are dropped.
        smoothing: Number of iterations of Taubin smoothing (Taubin 1995), which preserves the volume.

    Returns:
        Vertex positions (V', 3), float32, without unused vertices, and vertex indices (F', 3), int64.

    Raises:
        EmptyMesh: If no faces remain or a vertex position is not finite.
    """
    import pymeshlab

    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if len(faces) == 0:
        raise EmptyMesh("cannot clean a mesh that has no faces")
    if not np.isfinite(vertices).all():
        raise EmptyMesh("cannot clean the mesh: all vertex positions must be finite")
    closed = _is_closed(faces)
    work = pymeshlab.MeshSet(verbose=False)
    work.add_mesh(pymeshlab.Mesh(vertices, faces.astype(np.int32)))
    # If a grid point lies on the surface, marching tetrahedra produces vertices that coincide up to rounding error, and
    # degenerate triangles between them.
    weld(work)
    repair(work)
    _replace(work, pymeshlab, *keep_large_components(*_arrays(work), component_fraction))
    if smoothing > 0:
        work.apply_coord_taubin_smoothing(stepsmoothnum=smoothing)
    if work.current_mesh().face_number() > max_faces:
        work.meshing_decimation_quadric_edge_collapse(
            targetfacenum=max_faces, preservenormal=True, preservetopology=True, planarquadric=True, autoclean=True
        )
        repair(work)
    if closed:
        close(work)
    work.meshing_remove_unreferenced_vertices()
    vertices, faces = _arrays(work)
    if len(faces) == 0:
        raise EmptyMesh("cleaning removed all faces: the surface consists only of specks and slivers")
    return vertices.astype(np.float32), faces.astype(np.int64)


def keep_large_components(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], fraction: float
) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "kept 3"]]:
    """Drop the connected components that are small compared with the largest.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        fraction: Minimum number of faces of a component, as a fraction of the number of faces of the largest component;
            0 keeps all components.

    Returns:
        The unchanged vertices and the remaining faces (F', 3).
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if len(faces) == 0 or fraction <= 0:
        return vertices, faces
    start, end = faces[:, [0, 1, 2]].reshape(-1), faces[:, [1, 2, 0]].reshape(-1)
    links = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(len(vertices),) * 2)
    _, label = connected_components(links, directed=False)
    size = np.bincount(label[faces[:, 0]])
    return vertices, faces[size[label[faces[:, 0]]] >= fraction * size.max()]


def _is_closed(faces: np.ndarray) -> bool:
    """Return whether every edge has two faces, in opposite directions."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    directed, count = np.unique(edges, axis=0, return_counts=True)
    backwards = np.unique(directed[:, ::-1], axis=0)
    return bool((count == 1).all()) and np.array_equal(directed, backwards)


def weld(work) -> None:
    """Merge vertices of a `pymeshlab.MeshSet` that nearly coincide, and remove the faces that this makes degenerate."""
    import pymeshlab

    work.meshing_merge_close_vertices(threshold=pymeshlab.PercentageValue(0.001))
    work.meshing_remove_duplicate_faces()
    work.meshing_remove_null_faces()


def close(work) -> None:
    """Close the holes that repairs have left in a `pymeshlab.MeshSet`, and orient the faces outwards."""
    if _is_closed(work.current_mesh().face_matrix()):
        return
    for _ in range(CLOSING_PASSES):  # removing non-manifold edges may open other holes
        work.meshing_close_holes(maxholesize=LARGEST_HOLE, newfaceselected=False)
        repair(work)
        if _is_closed(work.current_mesh().face_matrix()):
            break
    work.meshing_re_orient_faces_coherently()
    if work.get_geometric_measures().get("mesh_volume", 0) < 0:
        work.meshing_invert_face_orientation(forceflip=True)


def repair(work) -> None:
    """Remove the non-manifold edges and vertices of a `pymeshlab.MeshSet`, which closing holes requires."""
    work.meshing_repair_non_manifold_edges()
    work.meshing_repair_non_manifold_vertices()


def _arrays(work) -> tuple[np.ndarray, np.ndarray]:
    mesh = work.current_mesh()
    return mesh.vertex_matrix(), mesh.face_matrix()


def _replace(work, pymeshlab, vertices: np.ndarray, faces: np.ndarray) -> None:
    work.clear()
    work.add_mesh(pymeshlab.Mesh(vertices, faces.astype(np.int32)))
