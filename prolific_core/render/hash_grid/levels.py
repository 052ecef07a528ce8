"""The grids of a multiresolution hash encoding: their resolutions and their rows of the table."""

import math
from dataclasses import dataclass

import torch

from prolific_core.errors import InputError

#: The paper's hash: x * 1 xor y * P1 xor z * P2, modulo the number of entries.
PRIMES = (1, 2654435761, 805459861)

#: Rows per level are a multiple of this in tiny-cuda-nn.
ALIGNMENT = 8


@dataclass(frozen=True)
class Level:
    """One grid. scale: corner spacing is 1 / scale; resolution: corners a side;
    offset, entries: its rows of the table; dense: whether each corner has its own."""

    scale: float
    resolution: int
    offset: int
    entries: int

    @property
    def dense(self) -> bool:
        return self.resolution**3 <= self.entries


def layout(levels: int, log2_entries: int, base_resolution: int, max_resolution: int) -> list[Level]:
    """The levels' grids, coarse to fine.

    N_l = base * b^l with b = (max / base)^(1 / (levels - 1)) (paper, eq. 2-3).
    """
    if max_resolution < base_resolution:
        raise InputError(f"max_resolution {max_resolution} is below base_resolution {base_resolution}")
    growth = math.log2(max_resolution / base_resolution) / max(levels - 1, 1)
    result, offset = [], 0
    for level in range(levels):
        # Rounded to float32 where tiny-cuda-nn rounds: the ceiling depends on it.
        exact = torch.tensor(level * growth, dtype=torch.float32)
        scale = (torch.exp2(exact) * base_resolution - 1).item()
        resolution = math.ceil(scale) + 1
        aligned = -(-(resolution**3) // ALIGNMENT) * ALIGNMENT
        entries = min(aligned, 2**log2_entries)
        result.append(Level(scale, resolution, offset, entries))
        offset += entries
    return result
