"""Finished assets: closed meshes stay closed, PLY files, materials, and the time limit of the unwrapping."""

import json
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from prolific_core.config import ExportConfig
from prolific_core.errors import ProlificError
from prolific_core.mesh import atlas as atlas_module
from prolific_core.mesh.asset import finish
from prolific_core.mesh.atlas import AtlasTimeout
from prolific_core.mesh.clean import clean, close
from prolific_core.mesh.export import feet, write_ply
from prolific_core.mesh.extract import marching_tetrahedra
from prolific_core.mesh.glb import glb_bytes, to_y_up
from prolific_core.mesh.tetrahedra import boundary_mask, grid_points
from prolific_core.mesh.unwrap import unwrap

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("pymeshlab")
pytest.importorskip("xatlas")


def colour(points):
    return (torch.sin(points * torch.tensor([9.0, 7.0, 8.0])) + 1) / 2


def noisy_mesh(seed):
    """Return the surface of random signed distances, which has non-manifold contacts and many thin parts."""
    points = grid_points(14, 0.6)
    noise = torch.randn(len(points), generator=torch.Generator().manual_seed(seed))
    sdf = torch.where(boundary_mask(14), -1.0, 0.35 - points.norm(dim=-1) + 0.25 * noise)
    vertices, faces = marching_tetrahedra(points, sdf, 14)
    return vertices.numpy(), faces.numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("budget", [600, 100_000])
def test_a_closed_surface_stays_closed_and_faces_outwards(seed, budget):
    mesh = trimesh.Trimesh(*clean(*noisy_mesh(seed), budget), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume > 0


def test_holes_of_repairs_are_closed_and_faces_turned_outwards():
    """A ball without ten of its faces and inside out becomes a ball again."""
    import pymeshlab

    ball = trimesh.creation.icosphere(2)
    keep = np.setdiff1d(np.arange(len(ball.faces)), [0, 1, 2, 50, 51, 100, 150, 200, 250, 300])
    work = pymeshlab.MeshSet(verbose=False)
    work.add_mesh(pymeshlab.Mesh(ball.vertices, ball.faces[keep][:, ::-1].copy()))
    close(work)
    mesh = trimesh.Trimesh(work.current_mesh().vertex_matrix(), work.current_mesh().face_matrix(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(ball.volume, rel=0.02)


def test_an_open_surface_is_not_closed():
    ball = trimesh.creation.icosphere(2)
    half = trimesh.Trimesh(ball.vertices, ball.faces[ball.triangles_center[:, 2] > 0])
    mesh = trimesh.Trimesh(*clean(half.vertices, half.faces), process=False)
    assert not mesh.is_watertight and mesh.area == pytest.approx(half.area, rel=0.01)


@pytest.fixture(scope="module")
def asset():
    ball = trimesh.creation.icosphere(3, radius=0.4)
    vertices = torch.tensor(ball.vertices * (0.5, 0.8, 1.2), dtype=torch.float32)
    return finish(vertices, torch.tensor(ball.faces), colour, ExportConfig(faces=900, texture_size=128))


def test_a_finished_asset_keeps_to_its_budget_and_holds_colours_twice(asset):
    assert len(asset.faces) == len(asset.mesh.faces) <= 900
    assert np.allclose(asset.mesh.vertices[asset.mesh.faces], asset.vertices[asset.faces])
    assert asset.texture.shape == (128, 128, 3)
    assert np.allclose(asset.colours, colour(torch.from_numpy(asset.vertices)).numpy(), atol=1e-6)


@pytest.mark.parametrize("at_feet", [False, True])
def test_the_ply_reads_back_with_normals_and_colours(asset, tmp_path, at_feet):
    origin = feet(asset.vertices) if at_feet else None
    path = write_ply(tmp_path / "mesh.ply", asset.vertices, asset.faces, asset.colours, origin)
    other = trimesh.load(path, process=False)
    moved = asset.vertices if origin is None else asset.vertices - origin
    assert np.allclose(other.vertices, to_y_up(moved), atol=1e-6)
    assert np.array_equal(other.faces, asset.faces)
    assert other.is_watertight and other.volume > 0
    assert np.abs(other.visual.vertex_colors[:, :3] / 255 - asset.colours).max() <= 0.5 / 255 + 1e-6
    outwards = (other.vertex_normals * (other.vertices - other.centroid)).sum(1)
    assert (outwards > 0).all()
    assert write_ply(tmp_path / "again.ply", asset.vertices, asset.faces, asset.colours, origin).read_bytes() == (
        path.read_bytes()
    )


def document(data: bytes) -> dict:
    return json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])


def test_only_baked_light_is_unlit(asset):
    unlit, lit = (document(glb_bytes(asset.mesh, asset.texture, unlit=flag)) for flag in (True, False))
    assert unlit["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "extensionsUsed" not in lit and "extensions" not in lit["materials"][0]
    assert unlit["materials"][0]["pbrMetallicRoughness"] == lit["materials"][0]["pbrMetallicRoughness"]
    assert "NORMAL" in lit["meshes"][0]["primitives"][0]["attributes"]


def test_a_process_of_its_own_gives_the_same_atlas(asset):
    alone, within = (unwrap(asset.vertices, asset.faces, 128, seconds=seconds) for seconds in (60, None))
    assert np.array_equal(alone.uvs, within.uvs) and np.array_equal(alone.faces, within.faces)


def test_the_unwrapping_ends_in_time_and_says_what_to_change(asset):
    with pytest.raises(AtlasTimeout, match=r"900 faces within 0.01 s; lower export.faces|faces within 0.01 s; lower"):
        unwrap(asset.vertices, asset.faces, 128, seconds=0.01)


def test_the_process_ends_by_itself_if_its_parent_was_killed(tmp_path):
    os.mkfifo(tmp_path / "never.npz")  # nothing writes to it, so that the process waits as for a mesh without end
    command = [
        sys.executable,
        "-m",
        "prolific_core.mesh.atlas",
        str(tmp_path / "never.npz"),
        str(tmp_path / "out"),
        "1",
    ]
    assert subprocess.run(command, cwd=atlas_module._ROOT, timeout=120).returncode == -signal.SIGALRM


def test_a_failure_of_xatlas_is_one_line(asset, monkeypatch):
    monkeypatch.setattr(atlas_module, "__name__", "prolific_core.mesh.no_such_module", raising=False)
    with pytest.raises(ProlificError, match="xatlas failed on a mesh of .* faces: .*no_such_module"):
        unwrap(asset.vertices, asset.faces, 128, seconds=60)
