"""The comparison of a GPU with the CPU, and the time of a step, on a pretended GPU or on the CPU."""

import pytest
import torch

from flows.benchmarks import gpu_check, gpu_steps
from prolific_core import config_layers
from prolific_core.render import warp_launch
from tests.support import tiny_pipeline
from tests.support.pretend_cuda import pretend_cuda

SMALL_FIELD = {
    "levels": 2,
    "log2_entries": 10,
    "base_resolution": 4,
    "max_resolution": 8,
    "hidden_width": 8,
    "samples_per_ray": 32,
    "occupancy_resolution": 8,
}


@pytest.mark.parametrize("types", [["bfloat16"], pytest.param(list(gpu_check.ALLOWED), marks=pytest.mark.slow)])
def test_a_gpu_that_computes_as_the_cpu_passes(monkeypatch, types):
    monkeypatch.setattr(gpu_check, "ALLOWED", {name: gpu_check.ALLOWED[name] for name in types})
    with pretend_cuda(monkeypatch):
        found = list(gpu_check.check(torch.device("cuda")))
    assert [result.name for result in found if not result.passed] == [], found
    kernels = ("hash_encoding", "marching", "compositing", "raster")
    expected = {f"{kernel}: {backend}" for kernel in kernels for backend in ("warp", "torch")}
    assert {result.name for result in found} == expected | {f"networks: {name}" for name in types}


def test_a_kernel_that_computes_something_else_fails_and_stops_no_other_check(monkeypatch):
    monkeypatch.setattr(gpu_check, "_networks", lambda device, dtype: (float("inf"), 1.0))
    with pretend_cuda(monkeypatch):
        launch = warp_launch.launch

        def broken(kernel, size, values, device):
            launch(kernel, size, values, device)
            if kernel.key.endswith("forward") and device.type == "cuda":
                out = values[-1][0] if isinstance(values[-1], tuple) else values[-1]
                out.data.mul_(1.01)
            if kernel.key.endswith("count"):
                raise RuntimeError("CUDA error 700:\nan illegal memory access")

        monkeypatch.setattr(warp_launch, "launch", broken)
        found = {result.name: result for result in gpu_check.check(torch.device("cuda"))}
    assert not found["hash_encoding: warp"].passed and found["hash_encoding: warp"].detail.startswith("difference 0.01")
    assert not found["compositing: warp"].passed
    assert found["marching: warp"].detail == "RuntimeError: CUDA error 700: an illegal memory access"
    assert found["hash_encoding: torch"].passed and found["raster: warp"].passed
    assert not found["networks: float16"].passed


def test_a_step_of_each_stage_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_steps, "WARM_UP", 1)
    prior = str(tiny_pipeline.make(tmp_path))
    small = {"resolution": [[0.0, 16]]}
    values = config_layers.resolve(
        (
            "preset",
            {
                "prior": {"path": prior},
                "system": {"device": "cpu"},
                "initialise": {"field": SMALL_FIELD},
                "nerf": {**small, "steps": 100},
                "geometry": {**small, "grid_resolution": 12},
                "texture": small,
            },
        )
    )
    rows = gpu_steps.bench(values, 2)
    assert [row.stage for row in rows] == ["nerf", "geometry", "texture"]
    for row in rows:
        assert row.seconds_per_step > 0 and row.peak_gb is None and sum(row.fractions.values()) == pytest.approx(1)
    assert rows[0].hours == pytest.approx(rows[0].seconds_per_step * 100 / 3600)
    assert "| nerf" in gpu_steps.table(rows)
