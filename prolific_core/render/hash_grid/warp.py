"""Warp kernels for the values and first derivatives of the hash encoding.

Let f be the position of a point within its cell, and s(f) its smoothstep (or f itself for linear interpolation). The
features of one level are

    y = sum over the 8 corners c of w_c table[row(c)],  w_c = product over the axes of s or 1 - s

so the gradients are dL/dtable[row(c)] += w_c dL/dy and dL/dx = scale * sum_c dw_c/df (table[row(c)] . dL/dy).
`encoding.encode_reference` is the same computation in plain PyTorch.

Values and the table's gradient are computed level by level, so that the rows of one level stay in the cache. Since
levels have separate rows, each level can run on its own thread.

The inner loops of both kernels are C++ snippets, which Warp compiles for CPU and GPU. They process points in blocks.
The corners of a whole block are computed first (with vector instructions on a CPU), and their rows are prefetched. The
rows of a fine grid are scattered over memory, so without prefetching, half of the time would be spent waiting for them.
"""
# Warp kernels are annotated with Warp's types, which type checkers do not accept.
# pyright: basic, reportInvalidTypeForm=false

from functools import cache, lru_cache
from types import SimpleNamespace
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.render import warp_launch
from prolific_core.render.hash_grid.levels import PRIMES, Level

#: C++ that computes `rows` and `weights`, indexed [corner][point], for points `first` to `stop` of one level. The bits
#: of a corner's index are its x, y and z offsets.
CORNERS = """
#if defined(__CUDA_ARCH__)
    constexpr int SOME = 1;
#else
    constexpr int SOME = 64;
#endif
    unsigned rows[8][SOME], cells[3][SOME];
    float weights[8][SOME], high[3][SOME];
    const float scale = grid.scale;
    const unsigned side = grid.resolution, entries = grid.entries, mask = entries - 1u;
    const unsigned offset = (unsigned)grid.offset;
    const bool dense = grid.dense;
    const float* from = (const float*)x.data;
    for (int begin = first; begin < stop; begin += SOME) {
        const int some = stop - begin < SOME ? stop - begin : SOME;
        for (int axis = 0; axis < 3; ++axis) {
            for (int k = 0; k < some; ++k) {
                const float value = from[3 * (begin + k) + axis];
                // Written so that NaN becomes 0 and no row is outside the table.
                const float position = (value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f) * scale + 0.5f;
                const int whole = (int)position;  // `int(...)` is a macro of warp's
                const float f = position - (float)whole;
                high[axis][k] = smooth ? f * f * (3.0f - 2.0f * f) : f;
                cells[axis][k] = (unsigned)whole;
            }
        }
        for (int c = 0; c < 8; ++c) {
            const unsigned dx = c & 1, dy = c >> 1 & 1, dz = c >> 2;
            for (int k = 0; k < some; ++k) {
                const float wx = dx ? high[0][k] : 1.0f - high[0][k];
                const float wy = dy ? high[1][k] : 1.0f - high[1][k];
                const float wz = dz ? high[2][k] : 1.0f - high[2][k];
                weights[c][k] = wx * (wy * wz);
            }
            if (dense) {
                for (int k = 0; k < some; ++k) {
                    const unsigned row = cells[0][k] + dx + side * (cells[1][k] + dy + side * (cells[2][k] + dz));
                    // Modulo entries, for rows below 2 * entries: below 0, row - entries is huge.
                    rows[c][k] = (row < row - entries ? row : row - entries) + offset;
                }
            } else {
                for (int k = 0; k < some; ++k) {
                    const unsigned row = (cells[0][k] + dx) ^ ((cells[1][k] + dy) * PRIME_Y) ^ ((cells[2][k] + dz) * PRIME_Z);
                    rows[c][k] = (row & mask) + offset;
                }
            }
        }
#if !defined(__CUDA_ARCH__)
        for (int c = 0; c < 8; ++c)
            for (int k = 0; k < some; ++k)
                __builtin_prefetch(&TABLE.data[rows[c][k]]);
#endif
""".replace("PRIME_Y", f"{PRIMES[1]}u").replace("PRIME_Z", f"{PRIMES[2]}u")  # noqa: E501

#: C++ that computes out[i, level] as the sum of weight times row over the corners.
VALUES = (
    CORNERS.replace("TABLE", "table")
    + """
        for (int k = 0; k < some; ++k) {
            auto total = weights[0][k] * table.data[rows[0][k]];
            for (int c = 1; c < 8; ++c)
                total = total + weights[c][k] * table.data[rows[c][k]];
            out.data[(begin + k) * levels + level] = total;
        }
    }
"""
)

#: C++ that adds weight times out_gradient[i, level] to gradient[row]. Several points may share a corner, so additions
#: are atomic on a GPU and sequential on a CPU.
GRADIENT = (
    CORNERS.replace("TABLE", "gradient")
    + """
        for (int k = 0; k < some; ++k) {
            const auto incoming = out_gradient.data[(begin + k) * levels + level];
            for (int c = 0; c < 8; ++c)
#if defined(__CUDA_ARCH__)
                wp::atomic_add(gradient, (int)rows[c][k], weights[c][k] * incoming);
#else
                gradient.data[rows[c][k]] += weights[c][k] * incoming;
#endif
        }
    }
"""
)


@cache
@no_type_check
def _kernels(features: int) -> SimpleNamespace:
    """Return the kernels for rows of `features` values, which Warp compiles once and caches on disk."""
    wp = warp_launch.warp()
    module = wp.get_module(f"prolific_core.hash_encoding_{features}")
    Row = wp.types.vector(length=features, dtype=wp.float32)
    prime_y = wp.constant(wp.uint32(PRIMES[1]))
    prime_z = wp.constant(wp.uint32(PRIMES[2]))

    @wp.struct
    class Grid:
        scale: wp.float32
        resolution: wp.uint32
        offset: wp.int32
        entries: wp.uint32
        dense: wp.bool

    @wp.struct
    class Cell:
        # Row of the corner at each (x, y, z) offset, and the fractional position inside the cell.
        r000: wp.int32
        r100: wp.int32
        r010: wp.int32
        r110: wp.int32
        r001: wp.int32
        r101: wp.int32
        r011: wp.int32
        r111: wp.int32
        f: wp.vec3

    @wp.func(module=module)
    def grid_of(scales: wp.array(dtype=wp.float32), grids: wp.array2d(dtype=wp.int32), level: wp.int32):
        grid = Grid()
        grid.scale = scales[level]
        grid.resolution = wp.uint32(grids[level, 0])
        grid.offset = grids[level, 1]
        grid.entries = wp.uint32(grids[level, 2])
        grid.dense = grids[level, 3] == 1
        return grid

    @wp.func(module=module)
    def unit(x: wp.float32):
        # This form maps NaN to 0, so that no row is outside the table.
        return wp.where(x > 0.0, wp.min(x, 1.0), 0.0)

    @wp.func(module=module)
    def wrap(row: wp.uint32, grid: Grid):
        # For rows below 2 * entries, this is row modulo entries, because a negative difference wraps to a large value.
        return wp.int32(wp.min(row, row - grid.entries)) + grid.offset

    @wp.func(module=module)
    def hashed(row: wp.uint32, grid: Grid):
        return wp.int32(row & (grid.entries - wp.uint32(1))) + grid.offset

    @wp.func(module=module)
    def locate(x: wp.vec3, grid: Grid):
        px = unit(x[0]) * grid.scale + 0.5
        py = unit(x[1]) * grid.scale + 0.5
        pz = unit(x[2]) * grid.scale + 0.5
        ix = wp.int32(px)
        iy = wp.int32(py)
        iz = wp.int32(pz)
        x0 = wp.uint32(ix)
        y0 = wp.uint32(iy)
        z0 = wp.uint32(iz)
        one = wp.uint32(1)
        cell = Cell()
        cell.f = wp.vec3(px - wp.float32(ix), py - wp.float32(iy), pz - wp.float32(iz))
        if grid.dense:
            row = x0 + grid.resolution * (y0 + grid.resolution * z0)
            layer = grid.resolution * grid.resolution
            cell.r000 = wrap(row, grid)
            cell.r100 = wrap(row + one, grid)
            cell.r010 = wrap(row + grid.resolution, grid)
            cell.r110 = wrap(row + grid.resolution + one, grid)
            cell.r001 = wrap(row + layer, grid)
            cell.r101 = wrap(row + layer + one, grid)
            cell.r011 = wrap(row + layer + grid.resolution, grid)
            cell.r111 = wrap(row + layer + grid.resolution + one, grid)
        else:
            x1 = x0 + one
            hy0 = y0 * prime_y
            hy1 = hy0 + prime_y
            hz0 = z0 * prime_z
            hz1 = hz0 + prime_z
            cell.r000 = hashed(x0 ^ hy0 ^ hz0, grid)
            cell.r100 = hashed(x1 ^ hy0 ^ hz0, grid)
            cell.r010 = hashed(x0 ^ hy1 ^ hz0, grid)
            cell.r110 = hashed(x1 ^ hy1 ^ hz0, grid)
            cell.r001 = hashed(x0 ^ hy0 ^ hz1, grid)
            cell.r101 = hashed(x1 ^ hy0 ^ hz1, grid)
            cell.r011 = hashed(x0 ^ hy1 ^ hz1, grid)
            cell.r111 = hashed(x1 ^ hy1 ^ hz1, grid)
        return cell

    @wp.func(module=module)
    def curve(f: wp.float32, smooth: wp.bool):
        return wp.where(smooth, f * f * (3.0 - 2.0 * f), f)

    @wp.func(module=module)
    def slope(x: wp.float32, f: wp.float32, smooth: wp.bool):
        # Derivative of `curve`, which is 0 outside [0, 1] because x is clamped.
        return wp.where(x >= 0.0 and x <= 1.0, wp.where(smooth, 6.0 * f * (1.0 - f), 1.0), 0.0)

    def snippet(code: str):
        def named(stub):
            stub.__qualname__ += f"_{features}"  # Warp identifies snippets by name, so names must be unique
            return wp.func_native(code)(stub)

        return named

    @snippet(VALUES)
    def values(
        x: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=Row),
        grid: Grid,
        smooth: wp.bool,
        level: wp.int32,
        levels: wp.int32,
        first: wp.int32,
        stop: wp.int32,
        out: wp.array2d(dtype=Row),
    ): ...

    @snippet(GRADIENT)
    def scatter(
        x: wp.array(dtype=wp.vec3),
        out_gradient: wp.array2d(dtype=Row),
        grid: Grid,
        smooth: wp.bool,
        level: wp.int32,
        levels: wp.int32,
        first: wp.int32,
        stop: wp.int32,
        gradient: wp.array(dtype=Row),
    ): ...

    @wp.kernel(module=module, enable_backward=False)
    def forward(
        first: wp.int32,
        block: wp.int32,
        x: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=Row),
        scales: wp.array(dtype=wp.float32),
        grids: wp.array2d(dtype=wp.int32),
        smooth: wp.bool,
        out: wp.array2d(dtype=Row),
    ):
        piece, tile = wp.tid()
        level = first + piece
        stop = wp.min((tile + 1) * block, x.shape[0])
        values(x, table, grid_of(scales, grids, level), smooth, level, scales.shape[0], tile * block, stop, out)

    @wp.kernel(module=module, enable_backward=False)
    def table_gradient(
        first: wp.int32,
        block: wp.int32,
        x: wp.array(dtype=wp.vec3),
        out_gradient: wp.array2d(dtype=Row),
        scales: wp.array(dtype=wp.float32),
        grids: wp.array2d(dtype=wp.int32),
        smooth: wp.bool,
        gradient: wp.array(dtype=Row),
    ):
        piece, tile = wp.tid()
        level = first + piece
        stop = wp.min((tile + 1) * block, x.shape[0])
        scatter(
            x, out_gradient, grid_of(scales, grids, level), smooth, level, scales.shape[0], tile * block, stop, gradient
        )

    @wp.kernel(module=module, enable_backward=False)
    def point_gradient(
        first: wp.int32,
        x: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=Row),
        out_gradient: wp.array2d(dtype=Row),
        scales: wp.array(dtype=wp.float32),
        grids: wp.array2d(dtype=wp.int32),
        smooth: wp.bool,
        gradient: wp.array(dtype=wp.vec3),
    ):
        piece = wp.tid()
        i = first + piece
        total = wp.vec3()
        for level in range(scales.shape[0]):
            grid = grid_of(scales, grids, level)
            c = locate(x[i], grid)
            g = out_gradient[i, level]
            sx = curve(c.f[0], smooth)
            sy = curve(c.f[1], smooth)
            sz = curve(c.f[2], smooth)
            tx = 1.0 - sx
            ty = 1.0 - sy
            tz = 1.0 - sz
            v000 = wp.dot(g, table[c.r000])
            v100 = wp.dot(g, table[c.r100])
            v010 = wp.dot(g, table[c.r010])
            v110 = wp.dot(g, table[c.r110])
            v001 = wp.dot(g, table[c.r001])
            v101 = wp.dot(g, table[c.r101])
            v011 = wp.dot(g, table[c.r011])
            v111 = wp.dot(g, table[c.r111])
            dx = tz * (ty * (v100 - v000) + sy * (v110 - v010)) + sz * (ty * (v101 - v001) + sy * (v111 - v011))
            dy = tz * (tx * (v010 - v000) + sx * (v110 - v100)) + sz * (tx * (v011 - v001) + sx * (v111 - v101))
            dz = ty * (tx * (v001 - v000) + sx * (v101 - v100)) + sy * (tx * (v011 - v010) + sx * (v111 - v110))
            total += grid.scale * wp.vec3(
                slope(x[i][0], c.f[0], smooth) * dx,
                slope(x[i][1], c.f[1], smooth) * dy,
                slope(x[i][2], c.f[2], smooth) * dz,
            )
        gradient[i] = total

    return SimpleNamespace(Row=Row, forward=forward, table_gradient=table_gradient, point_gradient=point_gradient)


@lru_cache(maxsize=64)
def _tables(levels: tuple[Level, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the scales (L,) of the levels, and their resolution, offset, entries and dense flag (L, 4) as int32."""
    scales = torch.tensor([level.scale for level in levels], dtype=torch.float32, device=device)
    rows = [[level.resolution, level.offset, level.entries, int(level.dense)] for level in levels]
    return scales, torch.tensor(rows, dtype=torch.int32, device=device)


def _block(device: torch.device) -> int:
    """Return the number of points per kernel thread, which is large on the CPU to reduce overhead per point."""
    return 1 if device.type == "cuda" else 1024


class _Encode(torch.autograd.Function):
    """Autograd function that encodes points (N, 3) with a table (rows, F) as features (N, L, F)."""

    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, levels: tuple[Level, ...], smooth: bool) -> Tensor:
        kernels, vec3 = _kernels(table.shape[1]), warp_launch.warp().vec3
        x, table = x.contiguous(), table.contiguous()
        scales, grids = _tables(levels, x.device)
        out = torch.empty(len(x), len(levels), table.shape[1], device=x.device)
        block = _block(x.device)
        values = [block, (x, vec3), (table, kernels.Row), scales, grids, smooth, (out, kernels.Row)]
        warp_launch.launch_split(kernels.forward, len(levels), (-(-len(x) // block),), values, x.device)
        ctx.save_for_backward(x, table)
        ctx.levels, ctx.smooth = levels, smooth
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, out_gradient: Tensor):
        x, table = ctx.saved_tensors
        kernels, vec3 = _kernels(table.shape[1]), warp_launch.warp().vec3
        scales, grids = _tables(ctx.levels, x.device)
        incoming = (out_gradient.contiguous(), kernels.Row)
        x_gradient = table_gradient = None
        if ctx.needs_input_grad[1]:
            table_gradient = torch.zeros_like(table)
            block = _block(x.device)
            values = [block, (x, vec3), incoming, scales, grids, ctx.smooth, (table_gradient, kernels.Row)]
            tiles = -(-len(x) // block)
            warp_launch.launch_split(kernels.table_gradient, len(ctx.levels), (tiles,), values, x.device)
        if ctx.needs_input_grad[0]:
            x_gradient = torch.empty_like(x)
            values = [(x, vec3), (table, kernels.Row), incoming, scales, grids, ctx.smooth, (x_gradient, vec3)]
            warp_launch.launch_split(kernels.point_gradient, len(x), (), values, x.device)
        return x_gradient, table_gradient, None, None


def encode_warp(
    x: Float[Tensor, "points 3"], table: Float[Tensor, "rows features"], levels: list[Level], smooth: bool
) -> Float[Tensor, "points columns"]:
    """Encode points in float32 with support for first derivatives; see `encode_reference`.

    Raises:
        InputError: `x` or `table` is not float32.
    """
    if x.dtype != torch.float32 or table.dtype != torch.float32:
        raise InputError(f"points and table must be float32, got {x.dtype} and {table.dtype}; use backend='torch'")
    return _Encode.apply(x, table, tuple(levels), smooth).flatten(1)
