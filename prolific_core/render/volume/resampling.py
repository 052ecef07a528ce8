"""Importance resampling of the steps of a coarse pass (NeRF, arXiv 2003.08934, section 5.2).

The weights w_i of the coarse steps, computed from densities alone, define a piecewise constant distribution along the
ray. Positions are drawn from this distribution by inverting its cumulative sum, and each position divides the step that
contains it. The resulting steps therefore cover exactly the same part of the ray as the coarse steps. The paper uses 64
coarse steps and 32 positions.

The computation consists of sums and searches over packed rows and uses the same PyTorch code on every device.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core import seeding
from prolific_core.errors import InputError
from prolific_core.render.volume.marching import Samples

#: Constant added to every weight so that no step has probability zero (value from NeRF's code).
UNIFORM_WEIGHT = 1e-5


def resample(
    samples: Samples, weights: Float[Tensor, " samples"], count: int, generator: torch.Generator | None = None
) -> Samples:
    """Divide the steps of each ray at positions drawn in proportion to their weights.

    Example:
        >>> samples = Samples(
        ...     torch.tensor([0, 0], dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
        ...     torch.tensor([0, 2], dtype=torch.int32),
        ... )
        >>> resample(samples, torch.tensor([0.0, 1.0]), 1).start
        tensor([0.0000, 1.0000, 1.5000])

    Args:
        samples: The coarse samples.
        weights: Weight (M,) of each coarse sample, at least 0.
        count: Number of positions per ray.
        generator: Source of stratified draws, one in each of `count` equal parts of the distribution. The draws are
            made on the device of the samples (see `seeding.on_device`). If None, the middle of each part is used.

    Returns:
        Samples with `count` additional steps on each ray that has samples.

    Raises:
        InputError: `count` is below 1.
    """
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    index, offsets = samples.ray_index.long(), samples.offsets.long()
    filled = (offsets[1:] > offsets[:-1]).nonzero()[:, 0]
    if len(filled) == 0:
        return samples
    u = torch.arange(count, dtype=torch.float64, device=weights.device)[None]
    if generator is None:
        u = (u + 0.5) / count
    else:
        device = weights.device
        drawn = seeding.on_device(generator, device)
        u = (u + torch.rand(len(filled), count, generator=drawn, dtype=torch.float64, device=device)) / count
    row, fraction = _invert(
        weights.double() + UNIFORM_WEIGHT, offsets, filled, u.expand(len(filled), count).reshape(-1)
    )
    cuts = samples.start[row] + fraction.to(samples.start) * samples.length[row]
    return _cut(samples, index, row, cuts)


def _invert(weights: Tensor, offsets: Tensor, rays: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row that contains each u in [0, 1), and the fractional position of u within the row.

    The values u are ordered by ray. A single search handles all rays, because the distribution function of ray i is
    shifted to the interval [i, i + 1].
    """
    before, total = _sums(weights, offsets)
    sizes = (offsets[1:] - offsets[:-1])[rays]
    number = torch.arange(len(rays), device=u.device)
    upper = number.repeat_interleave(sizes) + (before + weights) / total
    ray = number.repeat_interleave(len(u) // len(rays))
    row = torch.searchsorted(upper, ray + u, right=True)
    # Prevent rounding errors from moving a draw to another ray.
    row = torch.minimum(torch.maximum(row, offsets[rays][ray]), offsets[rays + 1][ray] - 1)
    fraction = (u * total[row] - before[row]) / weights[row]
    return row, fraction.clamp(0, 1)


def _sums(weights: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row (M,), the sum of the preceding weights on its ray and the sum of all weights of the ray."""
    running = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    sizes = offsets[1:] - offsets[:-1]
    first, last = running[offsets[:-1]].repeat_interleave(sizes), running[offsets[1:]].repeat_interleave(sizes)
    return running[:-1] - first, last - first


def _cut(samples: Samples, index: Tensor, row: Tensor, cuts: Tensor) -> Samples:
    """Split the steps indexed by `row` at the distances `cuts`. Both are in ascending order along each ray."""
    rows, made = len(samples), len(samples) + len(cuts)
    cut_before = torch.bincount(row, minlength=rows).cumsum(0)
    # Each cut ends one piece and starts the next, so a row's last piece follows all cuts in this and earlier rows.
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
