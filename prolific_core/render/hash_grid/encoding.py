"""Trainable multiresolution hash grid encoding (Instant-NGP, arXiv 2201.05989, section 3).

Space is covered by grids of increasing resolution. Each grid corner has a table row, and the features of a point at
one level are the interpolated rows of the corners around it. Grids that fit into their part of the table are indexed
densely, and finer grids by a spatial hash.

The table has the same layout as in tiny-cuda-nn's HashGrid, so that every backend reads the same checkpoint. This
layout implies that positions are x * scale + 0.5 and that a dense index beyond the last corner wraps around.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.render import backends
from prolific_core.render.hash_grid.levels import PRIMES, Level, layout
from prolific_core.render.hash_grid.tinycudann import encode_tinycudann
from prolific_core.render.hash_grid.warp import encode_warp


def _corner_rows(corner: Int[Tensor, "points 3"], level: Level) -> Int[Tensor, " points"]:
    """Return the table rows of integer corners of one level."""
    x, y, z = corner.unbind(-1)
    if level.dense:
        row = x + y * level.resolution + z * level.resolution**2
    else:
        row = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
    return row % level.entries + level.offset


def encode_reference(
    x: Float[Tensor, "points 3"], table: Float[Tensor, "rows features"], levels: list[Level], smooth: bool
) -> Float[Tensor, "points columns"]:
    """Encode points in plain PyTorch.

    All float types are supported. The result is differentiable with respect to `x` and `table`.

    Args:
        x: Points (N, 3), clamped to [0, 1].
        table: Features (rows, F) of all levels.
        levels: The grids; see `layout`.
        smooth: Whether to interpolate by smoothstep (arXiv 2201.05989, appendix A) instead of linearly.

    Returns:
        Features (N, len(levels) * F), ordered from the coarsest to the finest level.
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


#: Implementation of each backend.
ENCODERS = {"torch": encode_reference, "warp": encode_warp, "tinycudann": encode_tinycudann}


class HashEncoding(nn.Module):
    """Trainable features of points in the unit cube.

    Gradients flow to the table and, if required, to `x`. Only the reference backend supports second derivatives. On a
    GPU, the Warp kernel accumulates the table's gradient in parallel, so the last bits of the gradient vary between
    runs.

    Example:
        >>> encoding = HashEncoding(4, 2, 12, 4, 32, generator=torch.Generator().manual_seed(0))
        >>> encoding(torch.rand(10, 3)).shape
        torch.Size([10, 8])

    Args:
        levels: Number of grids.
        features: Number of features per grid. The output has levels * features columns, ordered from the coarsest to
            the finest grid.
        log2_entries: Logarithm to base 2 of the maximum number of rows of a level.
        base_resolution: Corners along each side of the coarsest grid.
        max_resolution: Corners along each side of the finest grid.
        interpolation: "linear", or "smoothstep" for a continuous gradient in `x`.
        backend: Kernel backend; see `backends.choose`. The backend is resolved at each call, so that the module can be
            moved between devices.
        generator: Source of the table's initial values, drawn from U(-1e-4, 1e-4) as in the paper.

    Raises:
        InputError: The interpolation is unknown, or `max_resolution` is below `base_resolution`.
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
            raise InputError(f"interpolation must be 'smoothstep' or 'linear', got {interpolation!r}")
        self.levels = layout(levels, log2_entries, base_resolution, max_resolution)
        self.features = features
        self.smooth = interpolation == "smoothstep"
        self.backend = backend
        rows = self.levels[-1].offset + self.levels[-1].entries
        table = torch.empty(rows, features).uniform_(-1e-4, 1e-4, generator=generator)
        self.table = nn.Parameter(table)

    @property
    def width(self) -> int:
        """Number of columns of the output."""
        return len(self.levels) * self.features

    def forward(self, x: Float[Tensor, "points 3"]) -> Float[Tensor, "points {self.width}"]:
        """Encode points.

        Args:
            x: Points (N, 3), clamped to [0, 1]; float32 except for the reference backend.

        Returns:
            Features (N, levels * features).

        Raises:
            BackendMissing: The requested backend cannot run on the device of `x`.
        """
        encode = ENCODERS[backends.choose("hash_encoding", self.backend, x.device).name]
        return encode(x, self.table, self.levels, self.smooth)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        finest = self.levels[-1]
        return (
            f"levels={len(self.levels)}, features={self.features}, rows={len(self.table)}, finest={finest.resolution}"
        )
