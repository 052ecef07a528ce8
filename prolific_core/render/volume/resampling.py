"""Importance resampling: steps are cut where the first look at a ray found what it shows (NeRF, 2003.08934, sec. 5.2).

The coarse steps' weights w_i, from densities alone, are a piecewise constant distribution along the
ray. Positions drawn from it by inverting its cumulative sum cut the steps they fall into, so that coarse
and fine together still cover exactly what the coarse ones did: 64 + 32 as the paper counts them.

All of it is sums and searches over packed rows, the same PyTorch on every device.
"""

import torch
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.render.volume.marching import Samples

#: Added to every weight, so that no step has probability zero (NeRF's own value).
EVEN = 1e-5


def resample(samples: Samples, weights: Tensor, count: int, generator: torch.Generator | None = None) -> Samples:
    """Samples whose steps are cut at `count` positions a ray, drawn in proportion to weights (M,) >= 0.

    generator: stratified draws, one in each `count`-th of the distribution (drawn on the CPU, so that
    every device gets the same); without one, each in the middle of its part. Rays without samples stay
    without.
    """
    if count < 1:
        raise InputError(f"{count} samples by importance: at least 1")
    index, offsets = samples.ray_index.long(), samples.offsets.long()
    filled = (offsets[1:] > offsets[:-1]).nonzero()[:, 0]
    if len(filled) == 0:
        return samples
    u = torch.arange(count, dtype=torch.float64, device=weights.device)[None]
    if generator is None:
        u = (u + 0.5) / count
    else:
        u = (u + torch.rand(len(filled), count, generator=generator, dtype=torch.float64).to(weights.device)) / count
    row, share = _invert(weights.double() + EVEN, offsets, filled, u.expand(len(filled), count).reshape(-1))
    cuts = samples.start[row] + share.to(samples.start) * samples.length[row]
    return _cut(samples, index, row, cuts)


def _invert(weights: Tensor, offsets: Tensor, rays: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The row that each u in [0, 1), ordered by ray, falls into, and how far into it.

    One search serves all rays: a ray's distribution function lies between its number and the next.
    """
    before, total = _sums(weights, offsets)
    sizes = (offsets[1:] - offsets[:-1])[rays]
    number = torch.arange(len(rays), device=u.device)
    upper = number.repeat_interleave(sizes) + (before + weights) / total
    ray = number.repeat_interleave(len(u) // len(rays))
    row = torch.searchsorted(upper, ray + u, right=True)
    # Rounding must not take a draw out of its ray.
    row = torch.minimum(torch.maximum(row, offsets[rays][ray]), offsets[rays + 1][ray] - 1)
    share = (u * total[row] - before[row]) / weights[row]
    return row, share.clamp(0, 1)


def _sums(weights: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row (M,): the sum of its ray's weights before it, and of all of them."""
    running = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    sizes = offsets[1:] - offsets[:-1]
    first, last = running[offsets[:-1]].repeat_interleave(sizes), running[offsets[1:]].repeat_interleave(sizes)
    return running[:-1] - first, last - first


def _cut(samples: Samples, index: Tensor, row: Tensor, cuts: Tensor) -> Samples:
    """Every row's step, cut at the distances that fall into it; `row` ascends, and so do a row's cuts."""
    rows, made = len(samples), len(samples) + len(cuts)
    cut_before = torch.bincount(row, minlength=rows).cumsum(0)
    # A row's last piece comes after all cuts up to and in it; every cut ends one piece and starts the next.
    last_piece = torch.arange(rows, device=row.device) + cut_before
    piece = row + torch.arange(len(cuts), device=row.device)
    start, end = samples.start.new_empty(made), samples.start.new_empty(made)
    end[last_piece], end[piece] = samples.end, cuts
    first_piece = torch.cat([last_piece.new_zeros(1), last_piece[:-1] + 1])
    start[first_piece] = samples.start
    start[piece + 1] = cuts
    whose = row.new_empty(made)
    whose[last_piece], whose[piece] = index, index[row]
    counts = torch.bincount(whose, minlength=samples.rays)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(samples.offsets.dtype)
    return Samples(whose.to(samples.ray_index.dtype), start, end, offsets)
