"""Reading of a user's mesh file as a closed solid, and distances from its surface."""
# pymeshlab's compiled module has no type stubs.
# pyright: basic, reportAttributeAccessIssue=false

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from prolific_core.errors import InputError, shorten
from prolific_core.mesh.clean import close, repair, weld
from prolific_core.mesh.glb import to_z_up

#: Suffixes of the formats that can be read.
SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")

#: Distance of the outermost vertex from the centre after the mesh has been scaled, in world units.
RADIUS = 0.5


def read_solid(path: str | Path, key: str) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "faces 3"]]:
    """Read a mesh file, and move and scale the mesh so that it fits into a ball of radius .5 around the origin.

    Small holes are closed. The mesh may have several parts, which may overlap.

    Args:
        path: The file. Its axes are those of the exported files, y up and the front at +z.
        key: Name of the setting, for error messages.

    Returns:
        Vertices (V, 3) in world axes (z up), float64, and faces (F, 3), int64, counter-clockwise as seen from outside.

    Raises:
        InputError: The file is missing, cannot be read, or does not hold a closed mesh.
    """
    import trimesh

    file = Path(path).expanduser()
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"{key}: {path} must be a mesh file ({', '.join(SUFFIXES)})")
    if not file.is_file():
        raise InputError(f"{key}: the file {path} does not exist")
    try:
        mesh = trimesh.load(file, force="mesh", process=False)
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        vertices, faces = to_z_up(np.asarray(mesh.vertices, np.float64)), np.asarray(mesh.faces, np.int64)
    except Exception as error:  # every format has its own errors
        reason = shorten(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
        raise InputError(f"{key}: cannot read {path} as a mesh: {reason}") from None
    empty = f"{key}: {path} must hold a mesh with faces and a volume, and with finite positions"
    if len(faces) == 0 or not np.isfinite(vertices).all() or np.ptp(vertices, axis=0).min() == 0:
        raise InputError(empty)
    if not is_balanced(faces):
        vertices, faces = _closed(vertices, faces)
    if len(faces) == 0:  # all were degenerate
        raise InputError(empty)
    if not is_balanced(faces):
        raise InputError(
            f"{key}: the mesh in {path} is not closed; close its holes, for example with Blender or MeshLab"
        )
    if _volume(vertices, faces) < 0:
        faces = faces[:, ::-1].copy()
    used = vertices[np.unique(faces)]
    vertices = vertices - (used.min(0) + used.max(0)) / 2
    return vertices * RADIUS / np.linalg.norm(vertices[np.unique(faces)], axis=1).max(), faces


def is_balanced(faces: Int[np.ndarray, "faces 3"]) -> bool:
    """Return whether every edge is used equally often in both directions, so that winding numbers are defined."""
    directed, count = np.unique(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=0, return_counts=True)
    order = np.lexsort((directed[:, 0], directed[:, 1]))
    backwards = directed[order][:, ::-1]
    return np.array_equal(directed, backwards) and np.array_equal(count, count[order])


def surface_distances(
    points: Float[np.ndarray, "points 3"], vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, " points"]:
    """Return the unsigned distances (N,) of points (N, 3) from a mesh, float64."""
    import pymeshlab

    work = pymeshlab.MeshSet(verbose=False)
    work.add_mesh(pymeshlab.Mesh(vertices, faces.astype(np.int32)))
    work.add_mesh(pymeshlab.Mesh(points))
    work.compute_scalar_by_distance_from_another_mesh_per_vertex(measuremesh=1, refmesh=0, signeddist=False)
    return work.current_mesh().vertex_scalar_array()


def _closed(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mesh whose close vertices are merged and whose holes are closed as far as possible."""
    import pymeshlab

    work = pymeshlab.MeshSet(verbose=False)
    work.add_mesh(pymeshlab.Mesh(vertices, faces.astype(np.int32)))
    weld(work)
    if work.current_mesh().face_number() > 0:
        repair(work)
        close(work)
    mesh = work.current_mesh()
    return mesh.vertex_matrix(), mesh.face_matrix().astype(np.int64)


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)
