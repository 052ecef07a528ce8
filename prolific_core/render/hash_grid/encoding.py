"""Multiresolution hash grid of features (Instant-NGP, arXiv 2201.05989, section 3).

Space is covered by grids of growing resolution. Each grid corner owns a row of
a table; a point's features at one level are the corners' rows, interpolated.
Grids that fit their table are indexed densely, finer ones by a spatial hash.

The table has the layout of tiny-cuda-nn's HashGrid, to the row, so that every
backend reads the same checkpoint. From there come two details: positions are
x * scale + 0.5, and a dense index beyond the last corner wraps around.
"""

import torch
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.render import backends
from prolific_core.render.hash_grid.levels import PRIMES, Level, layout


def _corner_rows(corner: Tensor, level: Level) -> Tensor:
    """Table rows (N,) of integer corners (N, 3) of one level."""
    x, y, z = corner.unbind(-1)
    if level.dense:
        row = x + y * level.resolution + z * level.resolution**2
    else:
        row = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
    return row % level.entries + level.offset


def encode_reference(x: Tensor, table: Tensor, levels: list[Level], smooth: bool) -> Tensor:
    """The encoding in plain PyTorch: (N, 3), (rows, F) -> (N, len(levels) * F).

    Differentiable in both; any float type. x is clamped to [0, 1].
    """
    x = x.clamp(0, 1)
    features = []
    for level in levels:
        position = x * level.scale + 0.5
        cell = position.detach().floor()
        fraction = position - cell
        if smooth:
            fraction = fraction * fraction * (3 - 2 * fraction)
        total = 0
        for corner in range(8):
            bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1], device=x.device)
            weight = torch.where(bits.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)
            total = total + weight * table[_corner_rows(cell.long() + bits, level)]
        features.append(total)
    return torch.cat(features, dim=-1)


class HashEncoding(nn.Module):
    """Trainable features of points in the unit cube.

        >>> encoding = HashEncoding(4, 2, 12, 4, 32, generator=torch.Generator().manual_seed(0))
        >>> encoding(torch.rand(10, 3)).shape
        torch.Size([10, 8])

    levels, features: the output has levels * features columns, coarse first.
    log2_entries: each level has at most 2^log2_entries rows.
    base_resolution, max_resolution: corners a side, coarsest and finest level.
    interpolation: "linear", or "smoothstep" for a continuous gradient in x.
    backend: see `backends.choose`; resolved at each call, so that the module
        may move between devices.
    generator: draws the table, U(-1e-4, 1e-4) as in the paper.

    forward(x): (N, 3) float32, clamped to [0, 1] -> (N, levels * features).
    Gradients go to the table and, where x requires one, to x. They are first
    derivatives: only the reference can be differentiated twice. On a GPU the native
    table gradient adds in parallel, so its last bits vary from run to run.
    """

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        log2_entries: int = 19,
        base_resolution: int = 16,
        max_resolution: int = 2048,
        interpolation: str = "smoothstep",
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if interpolation not in ("smoothstep", "linear"):
            raise InputError(f"interpolation {interpolation!r}: smoothstep or linear")
        self.levels = layout(levels, log2_entries, base_resolution, max_resolution)
        self.features = features
        self.smooth = interpolation == "smoothstep"
        self.backend = backend
        rows = self.levels[-1].offset + self.levels[-1].entries
        table = torch.empty(rows, features).uniform_(-1e-4, 1e-4, generator=generator)
        self.table = nn.Parameter(table)

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.levels) * self.features

    def forward(self, x: Tensor) -> Tensor:
        choice = backends.choose("hash_encoding", self.backend, x.device)
        if choice.name == backends.REFERENCE:
            return encode_reference(x, self.table, self.levels, self.smooth)
        if choice.name == "tinycudann":
            from prolific_core.render.hash_grid.tinycudann import encode_tinycudann

            return encode_tinycudann(x, self.table, self.levels, self.smooth)
        from prolific_core.render.hash_grid.warp import encode_native

        return encode_native(x, self.table, self.levels, self.smooth)

    def extra_repr(self) -> str:
        finest = self.levels[-1]
        return (
            f"levels={len(self.levels)}, features={self.features}, rows={len(self.table)}, finest={finest.resolution}"
        )
