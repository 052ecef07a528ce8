"""Tests of `prolific bench raster`: its mesh, its numbers and its table."""

import json

import pytest
import torch

from flows.benchmarks import raster
from flows.benchmarks.results import as_json
from prolific_core.render import backends

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
    assert {"reference_ratio", "pixel_exponent", "face_ratio", "rows"} <= set(found)
    assert found["rows"][0]["side"] == 16


def test_the_table_marks_missed_goals():
    row = raster.Row(1000, 128, 1.0, 2.0, None, 3.0, 4.0, 5.0)
    lines = raster.table(raster.Numbers(50.0, 1.5, 1.2, [row])).splitlines()
    assert ["not reached" in line for line in lines[-3:]] == [False, True, False]
    assert row.render == 9.0
