"""Resolutions and table rows of the grids of a multiresolution hash encoding."""

import math
from dataclasses import dataclass

import torch

from prolific_core.errors import InputError

#: Factors of the spatial hash (arXiv 2201.05989, eq. 4): (x * P0 xor y * P1 xor z * P2) modulo the number of entries.
PRIMES = (1, 2654435761, 805459861)

#: tiny-cuda-nn rounds the number of rows of a level up to a multiple of this number.
ALIGNMENT = 8


@dataclass(frozen=True)
class Level:
    """One grid of a hash encoding.

    Attributes:
        scale: Inverse of the spacing of the corners in the unit cube.
        resolution: Number of corners along each side.
        offset: First row of the level in the table.
        entries: Number of rows of the level.
    """

    scale: float
    resolution: int
    offset: int
    entries: int

    @property
    def dense(self) -> bool:
        """Whether each corner has its own row; otherwise, rows are hashed."""
        return self.resolution**3 <= self.entries


def layout(levels: int, log2_entries: int, base_resolution: int, max_resolution: int) -> list[Level]:
    """Compute the grids of an encoding, from coarse to fine.

    The resolution of level l is N_l = base * b^l with b = (max / base)^(1 / (levels - 1)) (arXiv 2201.05989, eq. 2-3).

    Example:
        >>> [level.resolution for level in layout(4, 19, 16, 128)]
        [16, 32, 64, 128]

    Args:
        levels: Number of grids.
        log2_entries: Logarithm to base 2 of the maximum number of rows of a level.
        base_resolution: Corners along each side of the coarsest grid.
        max_resolution: Corners along each side of the finest grid.

    Returns:
        The levels, whose rows are consecutive in the table.

    Raises:
        InputError: `max_resolution` is below `base_resolution`.
    """
    if max_resolution < base_resolution:
        raise InputError(f"max_resolution must be at least base_resolution = {base_resolution}, got {max_resolution}")
    growth = math.log2(max_resolution / base_resolution) / max(levels - 1, 1)
    result, offset = [], 0
    for level in range(levels):
        # Round to float32 at the same point as tiny-cuda-nn, because the ceiling depends on it.
        exact = torch.tensor(level * growth, dtype=torch.float32)
        scale = (torch.exp2(exact) * base_resolution - 1).item()
        resolution = math.ceil(scale) + 1
        aligned = -(-(resolution**3) // ALIGNMENT) * ALIGNMENT
        entries = min(aligned, 2**log2_entries)
        result.append(Level(scale, resolution, offset, entries))
        offset += entries
    return result
