"""Importance resampling: positions follow the weights, the covered part of the ray stays, positions equal nerfacc's."""

import pytest
import torch

from prolific_core.config import FieldConfig
from prolific_core.errors import InputError
from prolific_core.render.volume.marching import Samples, march
from prolific_core.render.volume.render import shade
from prolific_core.render.volume.resampling import resample
from prolific_core.scenes.radiance_field import RadianceField


def packed(sizes, gap=0.0, seed=0) -> Samples:
    """Return rays with the given numbers of steps, of random lengths, with gaps as after skipping empty cells."""
    g = torch.Generator().manual_seed(seed)
    start, end, index = [], [], []
    for ray, size in enumerate(sizes):
        edges = torch.rand(size, generator=g).add(0.1).cumsum(0)
        lengths = torch.rand(size, generator=g) * 0.05 + 0.02
        start.append(edges + gap)
        end.append(edges + gap + lengths)
        index += [ray] * size
    offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)
    return Samples(torch.tensor(index, dtype=torch.int32), torch.cat(start), torch.cat(end), offsets)


@pytest.mark.parametrize("generator", [None, 7])
def test_fine_steps_cover_the_same_part_of_the_ray_as_the_coarse_ones(generator):
    samples = packed([3, 0, 5, 1, 0, 40])
    weights = torch.rand(len(samples), generator=torch.Generator().manual_seed(1))
    generator = None if generator is None else torch.Generator().manual_seed(generator)
    fine = resample(samples, weights, 32, generator)
    before, after = (s.offsets.diff().tolist() for s in (samples, fine))
    assert after == [size + 32 if size else 0 for size in before]
    assert (fine.length >= 0).all() and fine.ray_index.dtype == fine.offsets.dtype == torch.int32
    assert (fine.ray_index.diff() >= 0).all()
    for ray, (first, last) in enumerate(zip(samples.offsets[:-1], samples.offsets[1:], strict=True)):
        here = slice(int(fine.offsets[ray]), int(fine.offsets[ray + 1]))
        start, end = fine.start[here], fine.end[here]
        assert abs(float(fine.length[here].sum() - samples.length[first:last].sum())) < 1e-5
        assert (start[1:] >= end[:-1]).all()
        # Every fine step lies in one coarse step.
        inside = (start[:, None] >= samples.start[first:last]) & (end[:, None] <= samples.end[first:last])
        assert inside.any(1).all()


def test_positions_follow_the_weights():
    samples = packed([4, 4])
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    fine = resample(samples, weights, 400)
    pieces = [
        int(((fine.start >= a) & (fine.end <= b) & (fine.ray_index == ray)).sum())
        for ray, a, b in zip(samples.ray_index, samples.start, samples.end, strict=True)
    ]
    assert pieces[:4] == [1, 101, 1, 301]
    assert pieces[4:] == [101] * 4  # zero weights give even steps


def test_positions_equal_those_of_nerfacc():
    from nerfacc.pdf import _sample_from_weighted

    g = torch.Generator().manual_seed(3)
    edges = torch.rand(1, 17, generator=g).add(0.05).cumsum(1).double()
    weights = torch.rand(1, 16, generator=g).double()
    _, theirs = _sample_from_weighted(edges, weights + 1e-5, 32)
    samples = Samples(
        torch.zeros(16, dtype=torch.int32), edges[0, :-1], edges[0, 1:], torch.tensor([0, 16], dtype=torch.int32)
    )
    ours = resample(samples, weights[0], 32)
    cuts = sorted(set(ours.start.tolist()) - set(samples.start.tolist()))
    assert len(cuts) == 32 and max(abs(a - b) for a, b in zip(cuts, theirs[0].tolist(), strict=True)) < 1e-12


def test_draws_are_stratified_and_follow_the_seed():
    samples, weights = packed([8]), torch.ones(8)
    seeds = [resample(samples, weights, 64, torch.Generator().manual_seed(seed)).start for seed in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1]) and not torch.equal(seeds[0], seeds[2])
    pieces = resample(samples, weights, 64, torch.Generator().manual_seed(5)).offsets
    assert pieces.tolist() == [0, 72]
    with pytest.raises(InputError, match="at least 1"):
        resample(samples, weights, 0)


def field(**changed) -> RadianceField:
    config = FieldConfig(
        levels=2, log2_entries=12, base_resolution=8, max_resolution=16, hidden_width=16, density_noise=0.3, **changed
    )
    made = RadianceField(config, generator=torch.Generator().manual_seed(0))
    made.update_occupancy(0, torch.Generator().manual_seed(1))
    return made


def rays(side=16):
    from prolific_core import cameras

    return cameras.orbit(2, elevation=20, distance=1.6, fov=45).rays(side)


@torch.no_grad()
def test_64_and_32_samples_are_closer_to_a_fine_march_than_96():
    """Compare errors on an opaque shell thinner than a step, so that one or two samples determine a ray's colour."""

    def shell(x):
        radius = x.norm(dim=-1)
        return 500 * (-(((radius - 0.4) / 0.01) ** 2)).exp(), torch.stack(
            [radius, x[:, 2].abs(), 1 - radius], -1
        ).clamp(0, 1)

    origins, directions = (part.reshape(-1, 3) for part in rays(32))
    occupied = torch.ones(8, 8, 8, dtype=torch.bool)

    def render(count, fine=0):
        steps = march(
            origins,
            directions,
            occupied,
            bound=1.0,
            step=2 * 3**0.5 / count,
            generator=torch.Generator().manual_seed(0),
        )
        if fine:
            steps = resample(steps, shade(shell, origins, directions, steps).weights, fine)
        return shade(shell, origins, directions, steps).colour

    truth = render(4096)
    error = {
        name: (image - truth).square().mean() for name, image in {"96": render(96), "64 + 32": render(64, 32)}.items()
    }
    assert error["64 + 32"] < error["96"] / 4


def test_a_render_in_patches_equals_a_render_at_once():
    def gradient(patch):
        made = field(samples_per_ray=64, importance_samples=32)
        image = made.render_rays(*rays(), generator=torch.Generator().manual_seed(2), background="white", patch=patch)
        (image.rgb * torch.linspace(0, 1, image.rgb.numel()).view_as(image.rgb)).sum().backward()
        return image.rgb.detach(), next(made.encoding.parameters()).grad

    (whole, a), (parts, b) = gradient(None), gradient(100)
    assert torch.equal(whole, parts) and a.abs().max() > 0
    assert (a - b).abs().max() < 1e-4 * a.abs().max()
