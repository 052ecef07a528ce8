"""Marching, occupancy and compositing, compared with closed forms, the references and nerfacc."""

import inspect
import math

import pytest
import torch

from prolific_core.render import backends
from prolific_core.render.volume.compositing import (
    composite,
    composite_nerfacc,
    composite_reference,
)
from prolific_core.render.volume.marching import Samples, TooManySamples, march
from prolific_core.render.volume.occupancy import OccupancyGrid
from prolific_core.render.volume.render import shade

needs_warp = pytest.mark.skipif(not backends.importable("warp"), reason="warp is not installed")
BACKENDS = [pytest.param("warp", marks=needs_warp), "torch"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rays(count, seed=0):
    """Return rays from a sphere of radius 2 towards points in the box; the last ones miss it or start inside."""
    origins = 2 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator(seed)), dim=-1)
    targets = torch.rand(count, 3, generator=generator(seed + 1)) * 1.6 - 0.8
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[-3:] = -directions[-3:]  # looking away
    origins[-6:-3] = targets[-6:-3]  # inside
    directions[-7] = torch.tensor([0.0, 0.0, -1.0])  # along an axis
    origins[-7] = torch.tensor([0.0, 0.0, 2.0])
    return origins, directions


def render_volume(field, origins, directions, occupied, *, backend, **options):
    """March rays through a field and shade the samples."""
    samples = march(origins, directions, occupied, backend=backend, **options)
    return shade(field, origins, directions, samples, backend)


def random_grid(fraction, resolution=8, seed=2):
    return torch.rand(resolution, resolution, resolution, generator=generator(seed)) < fraction


def packed(counts, seed=0, dtype=torch.float32):
    """Return samples with the given number per ray, contiguous along each ray, of random lengths."""
    counts = torch.tensor(counts, dtype=torch.long)
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int32)
    offsets[1:] = counts.cumsum(0)
    total = int(counts.sum())
    lengths = torch.rand(total, generator=generator(seed), dtype=dtype) * 0.2
    starts = [piece.cumsum(0) - piece + 1 for piece in lengths.split(counts.tolist())]
    start = torch.cat(starts) if starts else lengths
    index = torch.repeat_interleave(torch.arange(len(counts)), counts).int()
    return Samples(index, start, start + lengths, offsets)


# -- marching


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_grid_is_covered_exactly(backend):
    """Check that the steps of each ray are contiguous from entrance to exit, with and without jitter."""
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    origins = torch.tensor([[0.0, 0.0, 3.0], [0.3, -0.2, 0.5], [3.0, 3.0, 3.0], [0.0, 5.0, 0.0]])
    directions = torch.tensor([[0, 0, -1.0], [0, 0, 1.0], [-1 / math.sqrt(3)] * 3, [1.0, 0, 0]])
    expected = [(2.0, 4.0), (0.0, 0.5), (2 * math.sqrt(3), 4 * math.sqrt(3)), None]
    for jitter in (None, generator()):
        samples = march(origins, directions, full, bound=1.0, step=0.3, generator=jitter, backend=backend)
        for ray, span in enumerate(expected):
            rows = slice(samples.offsets[ray], samples.offsets[ray + 1])
            start, end = samples.start[rows], samples.end[rows]
            assert (samples.ray_index[rows] == ray).all()
            if span is None:
                assert len(start) == 0
                continue
            assert start[0].item() == pytest.approx(span[0], abs=1e-5)
            assert end[-1].item() == pytest.approx(span[1], abs=1e-5)
            assert torch.allclose(start[1:], end[:-1], atol=1e-6)
            assert ((end - start) <= 0.3 + 1e-5).all()


@needs_warp
@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("jitter", [False, True])
def test_samples_equal_the_references(fraction, jitter):
    rays, grid = random_rays(300), random_grid(fraction)
    found, reference = (
        march(*rays, grid, bound=1.0, step=0.07, generator=generator(5) if jitter else None, backend=name)
        for name in ("warp", "torch")
    )
    if fraction == 0:
        assert len(found) == len(reference) == 0 and found.offsets.tolist() == [0] * 301
        return
    # A midpoint within rounding error of a cell border may be on either side: at most one in a thousand.
    common = set(zip(found.ray_index.tolist(), (found.start / 1e-4).round().tolist()))
    other = set(zip(reference.ray_index.tolist(), (reference.start / 1e-4).round().tolist()))
    assert len(common ^ other) <= len(reference) / 1000
    if len(found) == len(reference):
        assert torch.allclose(found.start, reference.start, atol=1e-5)
        assert torch.allclose(found.end, reference.end, atol=1e-5)
        assert torch.equal(found.offsets, reference.offsets)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_sample_is_in_an_occupied_cell(backend):
    (origins, directions), grid = random_rays(200), random_grid(0.3)
    samples = march(origins, directions, grid, bound=1.5, step=0.05, generator=generator(), backend=backend)
    cell = ((samples.positions(origins, directions) / 1.5 + 1) * 4).floor().long().clamp(0, 7)
    assert len(samples) > 1000
    assert grid[cell.unbind(-1)].float().mean() > 0.999  # the others are rounding errors at borders
    full = march(
        origins, directions, torch.ones_like(grid), bound=1.5, step=0.05, generator=generator(), backend=backend
    )
    assert 0.2 < len(samples) / len(full) < 0.4  # about the occupied fraction of the grid


@pytest.mark.parametrize("backend", BACKENDS)
def test_near_and_far_limit_the_steps(backend):
    origins, directions = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    samples = march(origins, directions, full, bound=1.0, step=0.1, near=2.5, far=3.25, backend=backend)
    assert samples.start[0].item() == pytest.approx(2.5)
    assert samples.end[-1].item() == pytest.approx(3.25)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rays_and_too_many_samples(backend):
    none = march(torch.zeros(0, 3), torch.zeros(0, 3), random_grid(1.0), bound=1.0, step=0.1, backend=backend)
    assert len(none) == 0 and none.rays == 0
    with pytest.raises(TooManySamples, match="at most 10 allowed"):
        march(*random_rays(20), random_grid(1.0), bound=1.0, step=0.1, max_samples=10, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_invalid_rays_terminate(backend):
    """Check that zero, infinite and NaN rays neither hang nor leave the grid."""
    nan, inf = float("nan"), float("inf")
    origins = torch.tensor([[0.0, 0, 0], [nan, 0, 0], [0, inf, 0], [1e30, 0, 0]])
    directions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0]])
    samples = march(origins, directions, random_grid(1.0), bound=1.0, step=0.1, backend=backend)
    assert len(samples) <= 4 * (2 * math.sqrt(3) / 0.1 + 2)
    with pytest.raises(ValueError, match="positive"):
        march(origins, directions, random_grid(1.0), bound=1.0, step=0.0, backend=backend)


# -- compositing


@needs_warp
@pytest.mark.parametrize("counts", [[5, 0, 1, 30, 0], [0, 0], [], [3] * 50])
def test_compositing_equals_the_reference_in_values_and_gradients(counts):
    samples = packed(counts)
    rays, total = len(counts), sum(counts)
    density = torch.rand(total, generator=generator(1)) * 20
    colour = torch.rand(total, 3, generator=generator(2))
    shapes = [(total,), (rays, 3), (rays,), (rays,)]
    out_gradients = [torch.randn(shape, generator=generator(3)) for shape in shapes]
    results = []
    for name in ("warp", "torch"):
        inputs = density.clone().requires_grad_(), colour.clone().requires_grad_()
        out = composite(*inputs, samples, backend=name)
        torch.autograd.backward(list(out), out_gradients)
        results.append([*out, *(i.grad for i in inputs)])
    for found, reference in zip(*results):
        assert torch.allclose(found, reference, rtol=1e-4, atol=2e-6)
    if total:
        assert results[1][4].abs().max() > 0.01


@needs_warp
def test_an_opaque_ray_keeps_finite_exact_gradients():
    samples = packed([6])
    density = torch.tensor([0.0, 1e-6, 5.0, 1e4, 1e4, 3.0]).requires_grad_()
    out = composite(density, torch.rand(6, 3, generator=generator()), samples)
    assert out.opacity.item() == pytest.approx(1.0)
    assert out.weights[1].item() == pytest.approx(1e-6 * samples.length[1].item(), rel=1e-3)
    out.colour.sum().backward()
    assert torch.isfinite(density.grad).all() and density.grad[4:].abs().max() == 0


def test_gradcheck_of_the_reference():
    samples = packed([3, 0, 4], dtype=torch.float64)
    density = (torch.rand(7, generator=generator(1), dtype=torch.float64) * 5).requires_grad_()
    colour = torch.rand(7, 3, generator=generator(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: tuple(composite_reference(d, c, samples)), (density, colour))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compositing_equals_nerfacc(backend):
    """Compare with nerfacc 0.5.3's batched functions, an independent implementation that runs on the CPU."""
    nerfacc = pytest.importorskip("nerfacc")
    rays, steps = 40, 25
    samples = packed([steps] * rays, seed=3)
    density = (torch.rand(rays * steps, generator=generator(4)) * 15).requires_grad_()
    colour = torch.rand(rays * steps, 3, generator=generator(5)).requires_grad_()
    start, end = samples.start.view(rays, steps), samples.end.view(rays, steps)
    weights, _, _ = nerfacc.render_weight_from_density(start, end, density.view(rays, steps))
    theirs = [
        nerfacc.accumulate_along_rays(weights, values=colour.view(rays, steps, 3)),
        nerfacc.accumulate_along_rays(weights, values=None)[:, 0],
        nerfacc.accumulate_along_rays(weights, values=((start + end) / 2)[..., None])[:, 0],
    ]
    out = composite(density, colour, samples, backend=backend)
    assert torch.allclose(out.weights, weights.flatten(), atol=1e-6)
    for mine, other in zip(out[1:], theirs):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(sum((o.square()).sum() for o in out[1:]), (density, colour))
    other = torch.autograd.grad(sum((o.square()).sum() for o in theirs), (density, colour))
    for a, b in zip(mine, other):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_calls_to_nerfacc_s_packed_functions_fit_its_signatures(monkeypatch):
    """Replace nerfacc's CUDA functions by the reference, and check the calls against their real signatures."""
    nerfacc = pytest.importorskip("nerfacc")
    samples = packed([4, 0, 6])
    density, colour = torch.rand(10, generator=generator()) * 5, torch.rand(10, 3, generator=generator(1))
    reference = composite_reference(density, colour, samples)
    weight_signature = inspect.signature(nerfacc.render_weight_from_density)
    sum_signature = inspect.signature(nerfacc.accumulate_along_rays)

    def weights_by_reference(*args, **kwargs):
        given = weight_signature.bind(*args, **kwargs).arguments
        assert torch.equal(given["sigmas"], density) and torch.equal(given["t_ends"], samples.end)
        assert given["ray_indices"].dtype == torch.int64 and given["n_rays"] == 3
        return reference.weights, None, None

    def sums(*args, **kwargs):
        given = sum_signature.bind(*args, **kwargs).arguments
        values = torch.ones(10, 1) if given["values"] is None else given["values"]
        return torch.zeros(3, values.shape[1]).index_add(0, given["ray_indices"], given["weights"][:, None] * values)

    monkeypatch.setattr(nerfacc, "render_weight_from_density", weights_by_reference)
    monkeypatch.setattr(nerfacc, "accumulate_along_rays", sums)
    for ours, expected in zip(composite_nerfacc(density, colour, samples), reference):
        assert ours.shape == expected.shape and torch.allclose(ours, expected, atol=1e-6)


# -- a solid ball, in closed form


def ball(radius, density):
    """Return a red field with the given density inside a ball and 0 outside."""

    def field(x):
        inside = (x.norm(dim=-1) < radius).float() * density
        return inside, torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3)

    return field


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_solid_ball_matches_its_closed_form(backend):
    """Check the opacity 1 - exp(-s c) and the mean distance t0 + 1/s - c / (exp(s c) - 1) for a chord of length c."""
    radius, s = 0.6, 3.0
    offset = torch.linspace(0, 0.75, 40)
    origins = torch.stack([torch.full_like(offset, 3.0), offset, torch.zeros_like(offset)], dim=-1)
    directions = torch.tensor([-1.0, 0.0, 0.0]).expand(40, 3)
    full = torch.ones(8, 8, 8, dtype=torch.bool)
    out = render_volume(ball(radius, s), origins, directions, full, bound=1.0, step=0.002, backend=backend)
    half = (radius**2 - offset**2).clamp(min=0).sqrt()
    opacity = 1 - torch.exp(-s * 2 * half)
    assert torch.allclose(out.opacity, opacity, atol=0.01)
    hit = half > 0.05
    chord = 2 * half[hit]
    depth = 3 - half[hit] + 1 / s - chord / torch.expm1(s * chord)
    assert torch.allclose(out.depth[hit], depth, atol=0.005)
    assert (out.depth[half == 0] == 0).all() and (out.opacity[half == 0] == 0).all()
    assert torch.allclose(out.colour[:, 0], out.opacity) and out.colour[:, 1:].abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_jittered_renders_average_to_the_closed_form(backend):
    """Check that many jittered renders with coarse steps are unbiased for a smooth field."""
    origins, directions = (
        torch.tensor([[0.0, 0.0, 3.0]]).expand(4000, 3),
        torch.tensor([[0.0, 0.0, -1.0]]).expand(4000, 3),
    )
    full = torch.ones(4, 4, 4, dtype=torch.bool)

    def linear(x):
        return 1 + x[:, 2], torch.ones(len(x), 3)

    out = render_volume(linear, origins, directions, full, bound=1.0, step=0.45, generator=generator(), backend=backend)
    # The integral of 1 + z over [-1, 1] is 2, and the midpoint rule is exact for it.
    assert torch.allclose(out.opacity, torch.full((4000,), 1 - math.exp(-2)), atol=1e-5)
    assert len(out.samples.length.unique()) > 1000  # the steps were shifted


@pytest.mark.parametrize("backend", BACKENDS)
def test_skipping_gives_the_same_image_with_fewer_samples(backend):
    field, rays = ball(0.3, 8.0), random_rays(500)
    grid = OccupancyGrid(16, 1.0, 0.02)
    for seed in range(16):  # one random point per cell each time: finding the ball's edge takes several updates
        grid.update(lambda x: field(x)[0], generator(seed))
    skipped = render_volume(field, *rays, grid.occupied, bound=1.0, step=0.02, backend=backend)
    full = render_volume(field, *rays, torch.ones_like(grid.occupied), bound=1.0, step=0.02, backend=backend)
    assert len(skipped.samples) < len(full.samples) / 4
    error = (skipped.colour - full.colour).square().mean()
    assert -10 * math.log10(error + 1e-12) > 40
    assert full.opacity.max() > 0.9


# -- the occupancy grid


def test_occupancy_follows_the_density():
    grid = OccupancyGrid(8, 1.0, 0.1, threshold=0.01)
    assert grid.occupied.all()  # nothing is skipped before the first update
    grid.update(lambda x: (x[:, 0] > 0).float() * 5)
    assert grid.occupied[4:].all() and not grid.occupied[:4].any()
    assert grid.occupied.float().mean() == 0.5
    # The object disappears: a cell's density decays until 1 - exp(-5 * 0.95^n * 0.1) <= 0.01, at n = 78.
    for _ in range(77):
        grid.update(lambda x: torch.zeros(len(x)))
    grid.density[0, 0, 0] = 100.0  # keeps the mean above the threshold
    grid.update(lambda x: torch.full((len(x),), 0.2))  # alpha 0.0198: all cells are occupied again
    assert grid.occupied.all()


def test_occupancy_keeps_some_cells_of_a_thin_field():
    grid = OccupancyGrid(8, 1.0, 0.1, threshold=0.01)
    grid.update(lambda x: (x[:, 2] > 0.5).float() * 1e-4)
    assert grid.occupied.float().mean().item() == pytest.approx(0.25)


def test_occupancy_points_are_one_in_each_cell_and_repeatable():
    grid = OccupancyGrid(8, 2.0)
    points = grid.points(generator(1))
    cell = ((points / 2 + 1) * 4).floor().long()
    assert len(cell.unique(dim=0)) == 512
    assert torch.equal(points, grid.points(generator(1)))
    assert not torch.equal(points, grid.points(generator(2)))
    assert torch.allclose(grid.points()[0], torch.full((3,), -1.75))
