"""Tests of `prolific bench render`: its JSON keys, its table, and the object that it renders."""

import json

import pytest
import torch

from flows.benchmarks import fitted_object
from flows.benchmarks import render as bench_render
from flows.benchmarks.render import Numbers
from flows.benchmarks.results import as_json
from prolific_core.config import FieldConfig
from prolific_core.render import backends

KEYS = [
    "encode_speedup",
    "encode_vs_numba",
    "render_speedup",
    "skip_sample_ratio",
    "skip_psnr_db",
    "nonmatmul_over_matmul",
]
SMALL = FieldConfig(levels=4, log2_entries=14, max_resolution=64, hidden_width=16, samples_per_ray=128)


@pytest.mark.skipif(not backends.importable("warp"), reason="warp is not installed")
def test_the_object_is_solid_and_the_rest_is_empty(monkeypatch):
    monkeypatch.setattr(fitted_object, "GRID", 24)
    field = fitted_object.fitted(SMALL, steps=60, points=2048)
    truth = fitted_object.Truth(torch.Generator().manual_seed(1))
    x, inside, _ = truth.sample(4000, torch.Generator().manual_seed(2))
    with torch.no_grad():
        density, colour = field(x)
    opaque = 1 - torch.exp(-density * 0.1)
    assert opaque[inside].mean() > 10 * opaque[~inside & (x.norm(dim=-1) > 0.6)].mean()
    red, *others = colour[inside].mean(0)
    assert red > max(others) + 0.2
    assert field.occupancy.occupied.float().mean() < 0.25


@pytest.mark.skipif(not backends.importable("warp"), reason="warp is not installed")
def test_every_number_is_measured(monkeypatch):
    monkeypatch.setattr(fitted_object, "GRID", 16)
    monkeypatch.setattr(bench_render, "SIDE", 16)
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        numbers = bench_render.bench(1, SMALL, steps=40)
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)
    measured = json.loads(as_json(numbers))
    assert list(measured)[: len(KEYS)] == KEYS
    assert (measured["encode_vs_numba"] is None) == (not backends.importable("numba"))
    assert all(value is None or value > 0 for value in measured.values())
    assert measured["encode_speedup"] > 2 and measured["skip_sample_ratio"] > 1.5


def test_the_table_marks_missed_goals_and_fits_a_terminal():
    numbers = Numbers(31.0, None, 7.5, 5.0, 45.0, 4.5, 100_000, 12.0, 34.0, 5.0)
    lines = bench_render.table(numbers).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) == 3 + len(KEYS)
    assert ["not reached" in line for line in lines[2:8]] == [False, False, True, False, False, True]
    assert "not measured" in lines[3]


@pytest.mark.skipif(not backends.importable("numba"), reason="numba is not installed")
def test_numba_s_loops_compute_the_same_encoding():
    from flows.benchmarks.numba_encoding import grids_of, kernels
    from prolific_core.render.hash_grid.encoding import HashEncoding, encode_reference

    draw = torch.Generator().manual_seed(0)
    made = HashEncoding(6, 2, 10, 4, 40, generator=draw)
    made.table.data.normal_(generator=draw)
    x, incoming = torch.rand(300, 3, generator=draw), torch.randn(300, 6, 2, generator=draw)
    forward, backward = kernels()
    scales, grids = grids_of(made.levels)
    out, gradient = torch.empty(300, 6, 2), torch.zeros_like(made.table)
    forward(x.numpy(), made.table.detach().numpy(), scales, grids, out.numpy())
    backward(x.numpy(), incoming.numpy(), scales, grids, gradient.numpy())
    reference = encode_reference(x, made.table, made.levels, True)
    reference.backward(incoming.flatten(1))
    assert torch.allclose(out.flatten(1), reference, atol=1e-5)
    assert torch.allclose(gradient, made.table.grad, atol=1e-4)
