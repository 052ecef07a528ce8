"""Hash encoding in plain numba loops, the baseline for the Warp kernels in `prolific bench render`.

The encoding is not available as a backend, because numba requires the CUDA toolkit on a GPU, while the Warp kernels run
on CPUs and GPUs. It uses the same layout, hash and interpolation as `prolific_core/render/hash_grid/encoding.py` with
smoothstep.
"""

from functools import lru_cache

import numpy as np

from prolific_core.render.hash_grid.levels import PRIMES, Level


def grids_of(levels: list[Level]) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays that describe the levels of the grid.

    The first contains the scales, (L,) float32. The second has the columns resolution, offset, entries and dense,
    (L, 4) int64.
    """
    rows = [[level.resolution, level.offset, level.entries, level.dense] for level in levels]
    return np.array([level.scale for level in levels], np.float32), np.array(rows, np.int64)


@lru_cache(maxsize=1)
def kernels():
    """Return the functions forward(x, table, scales, grids, out) and backward(x, incoming, scales, grids, gradient).

    All arrays except `grids` are float32. `x` has shape (N, 3), `table` and `gradient` have shape (rows, 2), and `out`
    and `incoming` have shape (N, L, 2). `forward` overwrites `out`, and `backward` adds to `gradient`. Both
    are compiled on first use.
    """
    from numba import njit  # pyright: ignore[reportMissingImports]

    y_prime, z_prime = np.uint32(PRIMES[1]), np.uint32(PRIMES[2])

    @njit(fastmath=True, inline="always")
    def place(value, scale):
        position = min(max(value, np.float32(0)), np.float32(1)) * scale + np.float32(0.5)
        cell = np.int32(position)
        f = position - np.float32(cell)
        return np.uint32(cell), f * f * (np.float32(3) - np.float32(2) * f)

    @njit(fastmath=True, inline="always")
    def row_of(x, y, z, resolution, offset, entries, dense):
        if dense:
            row = x + resolution * (y + resolution * z)
            return np.int64(row - entries if row >= entries else row) + offset
        return np.int64((x ^ (y * y_prime) ^ (z * z_prime)) & (entries - np.uint32(1))) + offset

    @njit(fastmath=True)
    def forward(x, table, scales, grids, out):
        one = np.float32(1)
        for level in range(len(scales)):
            resolution, offset = np.uint32(grids[level, 0]), grids[level, 1]
            entries, dense = np.uint32(grids[level, 2]), grids[level, 3] == 1
            for i in range(len(x)):
                cx, sx = place(x[i, 0], scales[level])
                cy, sy = place(x[i, 1], scales[level])
                cz, sz = place(x[i, 2], scales[level])
                a, b = np.float32(0), np.float32(0)
                for corner in range(8):
                    dx, dy, dz = np.uint32(corner & 1), np.uint32(corner >> 1 & 1), np.uint32(corner >> 2)
                    w = (sx if dx else one - sx) * (sy if dy else one - sy) * (sz if dz else one - sz)
                    row = row_of(cx + dx, cy + dy, cz + dz, resolution, offset, entries, dense)
                    a += w * table[row, 0]
                    b += w * table[row, 1]
                out[i, level, 0] = a
                out[i, level, 1] = b

    @njit(fastmath=True)
    def backward(x, incoming, scales, grids, gradient):
        one = np.float32(1)
        for level in range(len(scales)):
            resolution, offset = np.uint32(grids[level, 0]), grids[level, 1]
            entries, dense = np.uint32(grids[level, 2]), grids[level, 3] == 1
            for i in range(len(x)):
                cx, sx = place(x[i, 0], scales[level])
                cy, sy = place(x[i, 1], scales[level])
                cz, sz = place(x[i, 2], scales[level])
                a, b = incoming[i, level, 0], incoming[i, level, 1]
                for corner in range(8):
                    dx, dy, dz = np.uint32(corner & 1), np.uint32(corner >> 1 & 1), np.uint32(corner >> 2)
                    w = (sx if dx else one - sx) * (sy if dy else one - sy) * (sz if dz else one - sz)
                    row = row_of(cx + dx, cy + dy, cz + dz, resolution, offset, entries, dense)
                    gradient[row, 0] += w * a
                    gradient[row, 1] += w * b

    return forward, backward
