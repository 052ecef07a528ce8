"""Starts of the geometry stage without a field: their volumes, and meshes of users with all their faults."""

import math

import numpy as np
import pytest
import torch

from prolific_core.config import GeometryConfig
from prolific_core.errors import InputError
from prolific_core.mesh.compare import Solid, volume_iou
from prolific_core.mesh.glb import to_y_up
from prolific_core.mesh.solid_file import is_balanced, read_solid
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.scenes.start_shape import check_start, ellipsoid_distances, start_surface

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("pymeshlab")


def solid(surface) -> Solid:
    vertices, faces = surface.extract()
    return Solid(vertices.detach(), faces)


@pytest.mark.parametrize("axes", [(0.4, 0.4, 0.4), (0.45, 0.3, 0.2)])
def test_the_ellipsoid_has_its_volume_and_its_axes(axes):
    config = GeometryConfig(start="ellipsoid", ellipsoid=axes, grid_resolution=40, extent=0.6)
    made = solid(start_surface(config))
    mesh = trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * math.prod(axes), rel=0.02)
    assert np.allclose(mesh.bounds[1], axes, atol=0.01) and np.allclose(mesh.bounds[0], -np.array(axes), atol=0.01)


def test_the_distances_of_a_ball_are_exact_and_those_of_an_ellipsoid_nearly():
    points = grid_points(9, 0.6)
    assert torch.allclose(ellipsoid_distances(points, (0.4, 0.4, 0.4)), 0.4 - points.norm(dim=-1), atol=1e-5)
    axes = torch.tensor([0.45, 0.3, 0.2])
    on = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1) * axes
    outwards = torch.nn.functional.normalize(on / axes**2, dim=1)
    assert torch.allclose(ellipsoid_distances(on + 0.01 * outwards, (0.45, 0.3, 0.2)), torch.tensor(-0.01), atol=0.0006)
    centre = ellipsoid_distances(torch.zeros(1, 3), (0.45, 0.3, 0.2))
    assert float(centre) == pytest.approx(0.2)


def table():
    """Return a table of overlapping boxes, whose edges are parallel to those of the grid."""
    parts = [trimesh.creation.box((1.0, 0.8, 0.2))]
    for x in (-0.37, 0.37):
        for y in (-0.27, 0.27):
            leg = trimesh.creation.box((0.26, 0.26, 0.8))
            leg.apply_translation((x, y, -0.35))
            parts.append(leg)
    return trimesh.util.concatenate(parts)


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".stl", ".ply", ".off"])
def test_a_mesh_keeps_its_shape(tmp_path, suffix):
    mesh = table()
    made = trimesh.Trimesh(to_y_up(mesh.vertices * 7 + 3), mesh.faces, process=False)
    path = tmp_path / f"a table{suffix}"
    made.export(path)
    config = GeometryConfig(start=str(path), grid_resolution=48, extent=0.6)
    check_start(config)
    vertices, faces = read_solid(path, "geometry.start")
    assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(0.5)
    assert vertices[:, 2].max() - vertices[:, 2].min() == pytest.approx(0.85 * np.ptp(vertices[:, 0]), rel=1e-5)
    truth = Solid(torch.from_numpy(vertices).float(), torch.from_numpy(faces))
    assert volume_iou(solid(start_surface(config)), truth, generator=torch.Generator().manual_seed(0)) > 0.95


def test_a_cube_whose_diagonals_are_above_grid_points_is_solid(tmp_path):
    trimesh.creation.box((2.0, 2.0, 2.0)).export(tmp_path / "cube.stl")
    made = solid(start_surface(GeometryConfig(start=str(tmp_path / "cube.stl"), grid_resolution=32, extent=0.6)))
    mesh = trimesh.Trimesh(made.vertices.numpy(), made.faces.numpy(), process=False)
    assert mesh.body_count == 1 and mesh.volume == pytest.approx((1 / math.sqrt(3)) ** 3, rel=0.03)


def test_the_distances_do_not_form_terraces(tmp_path):
    """A ball with a fine mesh has smooth normals on the grid."""
    trimesh.creation.icosphere(5, radius=2.0).export(tmp_path / "ball.stl")
    made = solid(start_surface(GeometryConfig(start=str(tmp_path / "ball.stl"), grid_resolution=32, extent=0.6)))
    radius = made.vertices.norm(dim=1)
    assert float((radius - 0.5).abs().max()) < 0.003


def test_small_holes_and_faces_inside_out_are_repaired(tmp_path):
    ball = trimesh.creation.icosphere(3)
    keep = np.setdiff1d(np.arange(len(ball.faces)), [0, 7, 50, 51, 600])
    trimesh.Trimesh(ball.vertices, ball.faces[keep][:, ::-1], process=False).export(tmp_path / "ball.ply")
    vertices, faces = read_solid(tmp_path / "ball.ply", "geometry.start")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert is_balanced(faces) and mesh.volume == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.02)


def moebius():
    """Return a Moebius strip, which has no inside."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    across = np.array([-0.3, 0.3])
    t, w = np.meshgrid(turn, across, indexing="ij")
    points = np.stack([(1 + w * np.cos(t / 2)) * np.cos(t), (1 + w * np.cos(t / 2)) * np.sin(t), w * np.sin(t / 2)], -1)
    faces = []
    for i in range(40):
        a, b = 2 * i, 2 * i + 1
        c, d = (2 * i + 2, 2 * i + 3) if i < 39 else (1, 0)
        faces += [[a, c, b], [b, c, d]]
    return trimesh.Trimesh(points.reshape(-1, 3), faces, process=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.obj", None, "the file .* does not exist"),
        ("mesh.fbx", b"Kaydara", r"must be a mesh file \(.glb, "),
        ("mesh.glb", b"glTF and then nothing", "cannot read .*mesh.glb as a mesh: "),
        ("mesh.stl", b"\0" * 100, "cannot read|must hold a mesh"),
        ("mesh.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "cannot read|must hold a mesh"),
        ("flat.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "must hold a mesh with faces and a volume"),
        ("nan.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n", "finite"),
        ("strip.ply", "moebius", "is not closed; close its holes"),
        ("line.obj", b"v 0 0 0\nv 1 1 1\nv .5 .5 .5\nv 2 1 0\nf 1 2 3\nf 1 3 3\n", "must hold a mesh with faces"),
    ],
)
def test_a_bad_file_gives_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "moebius":
        moebius().export(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        check_start(GeometryConfig(start=str(path)))
    assert str(error.value).startswith("geometry.start: ") and "\n" not in str(error.value)


def test_an_edge_of_three_faces_does_not_prevent_the_closing_of_holes(tmp_path):
    ball = trimesh.creation.icosphere(3)
    keep = np.setdiff1d(np.arange(len(ball.faces)), [0, 7, 600])
    vertices = np.concatenate([ball.vertices, ball.vertices[ball.faces[50][:1]] * 1.05])
    faces = np.concatenate([ball.faces[keep], [[*ball.faces[50][:2], len(ball.vertices)]]])
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "ball.ply")
    found = trimesh.Trimesh(*read_solid(tmp_path / "ball.ply", "geometry.start"), process=False)
    assert is_balanced(found.faces) and found.volume == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.2)


def test_a_mesh_thinner_than_a_cell_gives_one_line(tmp_path):
    trimesh.creation.box((1.0, 1.0, 0.002)).export(tmp_path / "plate.obj")
    with pytest.raises(InputError, match="thinner than a cell; raise geometry.grid_resolution"):
        start_surface(GeometryConfig(start=str(tmp_path / "plate.obj"), grid_resolution=15))


def test_a_shape_that_does_not_fit_into_the_grid_gives_one_line():
    with pytest.raises(InputError, match="geometry.extent must be larger than 0.7 .*got 0.6"):
        check_start(GeometryConfig(start="ellipsoid", ellipsoid=(0.7, 0.3, 0.3), extent=0.6))
    check_start(GeometryConfig(start="ellipsoid", ellipsoid=(0.7, 0.3, 0.3)))
    thin = GeometryConfig(start="ellipsoid", ellipsoid=(0.4, 0.4, 0.001), grid_resolution=15, extent=0.6)
    with pytest.raises(InputError, match="thinner than a cell; raise geometry.grid_resolution"):
        start_surface(thin)
