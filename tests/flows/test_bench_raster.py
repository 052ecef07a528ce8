"""Tests of `prolific bench raster`: its mesh, its numbers and its table."""

import json

import pytest
import torch

from flows.benchmarks import raster
from flows.benchmarks.mitsuba_depth import MitsubaDepth
from flows.benchmarks.results import as_json
from prolific_core import cameras
from prolific_core.render import backends
from prolific_core.render.mesh.raster import first_hit_reference

trimesh = pytest.importorskip("trimesh")


@pytest.mark.parametrize("faces", [1_000, 20_000])
def test_the_mesh_is_closed_and_has_about_as_many_faces_as_wanted(faces):
    vertices, triangles = raster.bumpy_sphere(faces)
    assert len(triangles) == pytest.approx(faces, rel=0.06)
    mesh = trimesh.Trimesh(vertices.numpy(), triangles.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


@pytest.mark.skipif(not backends.importable("warp"), reason="warp is not installed")
def test_every_size_is_measured():
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        numbers = raster.bench(1, sides=(16, 32), faces=(100, 1000))
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)
    assert [(row.side, row.reference is not None) for row in numbers.rows] == [(16, True), (32, True)] * 2
    assert all(row.build > 0 and row.visible > 0 and row.forward > 0 for row in numbers.rows)
    found = json.loads(as_json(numbers))
    assert all((row.mitsuba is None) == (not backends.importable("mitsuba")) for row in numbers.rows)
    assert {"reference_ratio", "mitsuba_ratio", "pixel_exponent", "face_ratio", "rows"} <= set(found)
    assert found["rows"][0]["side"] == 16


@pytest.mark.skipif(not backends.importable("mitsuba"), reason="mitsuba is not installed")
def test_mitsuba_sees_the_same_silhouette():
    vertices, triangles = raster.bumpy_sphere(1000)
    camera = cameras.orbit(1, elevation=15, distance=1.4, fov=45)
    seen = MitsubaDepth(vertices, triangles, camera.c2w[0, :3, 3], 45, 64)()
    ours = first_hit_reference(vertices, triangles, *(rays.reshape(-1, 3) for rays in camera.rays(64))) >= 0
    assert 0.3 < seen.mean() < 0.9 and (seen == ours.view(64, 64).numpy()).mean() > 0.98


def test_the_table_marks_missed_goals():
    row = raster.Row(1000, 128, 1.0, 2.0, None, None, 3.0, 4.0, 5.0)
    lines = raster.table(raster.Numbers(50.0, 0.5, 1.5, 1.2, [row])).splitlines()
    assert ["not reached" in line for line in lines[-4:]] == [False, False, True, False]
    assert row.render == 9.0
