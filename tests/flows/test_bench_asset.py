"""Tests of `prolific bench asset`: the supervised field, the numbers and the table."""

import json

import pytest
import torch

from flows.benchmarks import asset, results
from flows.benchmarks.supervised_field import TrueObject, supervised
from prolific_core import cameras
from prolific_core.config import (
    CameraConfig,
    Config,
    EvaluateConfig,
    ExportConfig,
    FieldConfig,
    GeometryConfig,
    InitialiseConfig,
    NerfConfig,
)
from prolific_core.render import backends

pytestmark = pytest.mark.skipif(not backends.importable("warp"), reason="warp is not installed")

CAMERAS = CameraConfig(distance=(1.3, 1.5), fov=(43.0, 48.0), elevation=(-10.0, 60.0), uniform_probability=0.2)
SMALL = Config(
    initialise=InitialiseConfig(
        field=FieldConfig(
            levels=2, log2_entries=13, max_resolution=32, hidden_width=16, samples_per_ray=64, density_noise=0.3
        )
    ),
    nerf=NerfConfig(
        steps=60, views=2, resolution=[(0.0, 24)], grid_learning_rate=0.02, network_learning_rate=0.005, cameras=CAMERAS
    ),
    geometry=GeometryConfig(grid_resolution=24, density_threshold=None, cameras=CAMERAS),
    export=ExportConfig(faces=4000, texture_size=128),
    evaluate=EvaluateConfig(views=4, resolution=64),
)


@pytest.fixture(scope="module")
def rows():
    return asset.bench(SMALL, ["a red ball"])


def test_true_renders_have_the_given_backgrounds_and_cameras():
    target = TrueObject.of("a red ball")
    views = cameras.orbit(2, elevation=0, distance=1.4, fov=45)
    behind = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    images = target.render(views, 32, behind)
    assert torch.allclose(images[:, :, 0, 0], behind)
    assert images[0, 0, 16, 16] > images[0, 2, 16, 16] + 0.3  # red in the middle
    normals = target.render(views, 32, behind, normals=True)
    assert torch.allclose(normals[0, :, 16, 16], torch.tensor([1.0, 0.5, 0.5]), atol=0.1)  # faces the camera


def test_a_field_comes_near_the_true_renders_and_the_fit_is_repeatable():
    short = SMALL.model_copy(update={"nerf": SMALL.nerf.model_copy(update={"steps": 3})})
    target = TrueObject.of("a red ball")
    once, again = (supervised(target, short).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_every_step_of_a_ball_is_near_the_truth(rows):
    (row,) = rows
    assert row.field_psnr > 15 and row.start_psnr > 14 and row.glb_psnr > 14
    assert row.psnr_loss == pytest.approx(row.field_psnr - row.glb_psnr)
    assert 0.75 < row.mesh_iou <= 1 and 0.75 < row.glb_iou <= 1
    assert 0 < row.mesh_chamfer < 0.06 and 0 < row.glb_chamfer < 0.06
    assert 0 < row.field_features < row.glb_features + 0.5


def test_the_numbers_are_written_as_json_with_their_medians(rows):
    found = json.loads(results.as_json(rows, **asset.medians(rows)))
    assert set(asset.GOALS) <= set(found)
    assert found["glb_iou"] == found["rows"][0]["glb_iou"] == rows[0].glb_iou


def test_the_table_marks_missed_goals(rows):
    table = asset.table(rows)
    assert "a red ball" in table and "median" in table
    bad = rows[0].__class__(**{**vars(rows[0]), "mesh_iou": 0.5, "glb_iou": 0.9})
    lines = asset.table([bad]).splitlines()
    assert ["not reached" in line for line in lines if "IoU with" in line] == [True, False]
