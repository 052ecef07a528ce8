"""The hash encoding as warp kernels, values and first derivatives.

With f the interpolation fraction of a point in its cell and s its smoothstep
(or f itself), one level's features are

    y = sum over the 8 corners c of w_c table[row(c)],  w_c = product over axes of s or 1 - s

so dL/dtable[row(c)] += w_c dL/dy and dL/dx = scale * sum_c dw_c/df (table[row(c)] . dL/dy).

Forward and table gradient run level by level: a level's rows stay in cache,
and since levels share no rows, each may run on its own thread.
"""

from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.render import native
from prolific_core.render.hash_encoding import PRIMES, Level


@lru_cache(maxsize=None)
def _kernels(features: int) -> SimpleNamespace:
    """The kernels for rows of `features` numbers (compiled once, cached on disk)."""
    wp = native.warp()
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
        smooth: wp.bool

    @wp.func(module=module)
    def grid_of(scales: wp.array(dtype=wp.float32), grids: wp.array2d(dtype=wp.int32), level: wp.int32, smooth: wp.bool):
        grid = Grid()
        grid.scale = scales[level]
        grid.resolution = wp.uint32(grids[level, 0])
        grid.offset = grids[level, 1]
        grid.entries = wp.uint32(grids[level, 2])
        grid.dense = grids[level, 3] == 1
        grid.smooth = smooth
        return grid

    @wp.func(module=module)
    def position(x: wp.float32, scale: wp.float32):
        # Written so that NaN becomes 0 and no index leaves the table.
        return wp.where(x > 0.0, wp.min(x, 1.0), 0.0) * scale + 0.5

    @wp.func(module=module)
    def curve(f: wp.float32, smooth: wp.bool):
        return wp.where(smooth, f * f * (3.0 - 2.0 * f), f)

    @wp.func(module=module)
    def slope(f: wp.float32, smooth: wp.bool):
        return wp.where(smooth, 6.0 * f * (1.0 - f), 1.0)

    @wp.func(module=module)
    def row_of(x: wp.uint32, y: wp.uint32, z: wp.uint32, grid: Grid):
        row = wp.uint32(0)
        if grid.dense:
            row = x + grid.resolution * (y + grid.resolution * z)
            if row >= grid.entries:  # below 2 * entries, since x, y, z <= resolution
                row = row - grid.entries
        else:
            row = (x ^ (y * prime_y) ^ (z * prime_z)) & (grid.entries - wp.uint32(1))
        return wp.int32(row) + grid.offset

    @wp.func(module=module)
    def corner_row(corner: wp.int32, cell: wp.vec3, grid: Grid):
        x = wp.uint32(wp.int32(cell[0]) + (corner & 1))
        y = wp.uint32(wp.int32(cell[1]) + ((corner >> 1) & 1))
        z = wp.uint32(wp.int32(cell[2]) + (corner >> 2))
        return row_of(x, y, z, grid)

    @wp.func(module=module)
    def side(bit: wp.int32, s: wp.float32):
        return wp.where(bit == 1, s, 1.0 - s)

    @wp.func(module=module)
    def inside(x: wp.float32):
        return wp.where(x >= 0.0 and x <= 1.0, 1.0, 0.0)

    @wp.func(module=module)
    def sign(bit: wp.int32):
        return wp.where(bit == 1, 1.0, -1.0)

    @wp.func(module=module)
    def weight(corner: wp.int32, s: wp.vec3):
        return side(corner & 1, s[0]) * side((corner >> 1) & 1, s[1]) * side(corner >> 2, s[2])

    @wp.kernel(module=module, enable_backward=False)
    def forward(
        first: wp.int32,
        x: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=Row),
        scales: wp.array(dtype=wp.float32),
        grids: wp.array2d(dtype=wp.int32),
        smooth: wp.bool,
        out: wp.array2d(dtype=Row),
    ):
        piece, i = wp.tid()
        grid = grid_of(scales, grids, first + piece, smooth)
        p = wp.vec3(position(x[i][0], grid.scale), position(x[i][1], grid.scale), position(x[i][2], grid.scale))
        cell = wp.vec3(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))
        f = p - cell
        s = wp.vec3(curve(f[0], smooth), curve(f[1], smooth), curve(f[2], smooth))
        total = Row()
        for corner in range(8):
            total += weight(corner, s) * table[corner_row(corner, cell, grid)]
        out[i, first + piece] = total

    @wp.kernel(module=module, enable_backward=False)
    def table_gradient(
        first: wp.int32,
        x: wp.array(dtype=wp.vec3),
        out_gradient: wp.array2d(dtype=Row),
        scales: wp.array(dtype=wp.float32),
        grids: wp.array2d(dtype=wp.int32),
        smooth: wp.bool,
        gradient: wp.array(dtype=Row),
    ):
        piece, i = wp.tid()
        grid = grid_of(scales, grids, first + piece, smooth)
        p = wp.vec3(position(x[i][0], grid.scale), position(x[i][1], grid.scale), position(x[i][2], grid.scale))
        cell = wp.vec3(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))
        f = p - cell
        s = wp.vec3(curve(f[0], smooth), curve(f[1], smooth), curve(f[2], smooth))
        g = out_gradient[i, first + piece]
        for corner in range(8):
            # Points share corners: parallel on a GPU, a plain sum in order on the CPU.
            wp.atomic_add(gradient, corner_row(corner, cell, grid), weight(corner, s) * g)

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
            grid = grid_of(scales, grids, level, smooth)
            p = wp.vec3(position(x[i][0], grid.scale), position(x[i][1], grid.scale), position(x[i][2], grid.scale))
            cell = wp.vec3(wp.floor(p[0]), wp.floor(p[1]), wp.floor(p[2]))
            f = p - cell
            s = wp.vec3(curve(f[0], smooth), curve(f[1], smooth), curve(f[2], smooth))
            g = out_gradient[i, level]
            change = wp.vec3()
            for corner in range(8):
                dot = wp.dot(g, table[corner_row(corner, cell, grid)])
                x_side = side(corner & 1, s[0])
                y_side = side((corner >> 1) & 1, s[1])
                z_side = side(corner >> 2, s[2])
                change += dot * wp.vec3(
                    sign(corner & 1) * y_side * z_side,
                    sign((corner >> 1) & 1) * x_side * z_side,
                    sign(corner >> 2) * x_side * y_side,
                )
            total += grid.scale * wp.cw_mul(change, wp.vec3(slope(f[0], smooth), slope(f[1], smooth), slope(f[2], smooth)))
        # The clamp to [0, 1] is flat outside.
        gradient[i] = wp.vec3(inside(x[i][0]) * total[0], inside(x[i][1]) * total[1], inside(x[i][2]) * total[2])

    return SimpleNamespace(Row=Row, forward=forward, table_gradient=table_gradient, point_gradient=point_gradient)


@lru_cache(maxsize=64)
def _tables(levels: tuple[Level, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The levels as arrays: scales (L,) float32; resolution, offset, entries, dense (L, 4) int32."""
    scales = torch.tensor([level.scale for level in levels], dtype=torch.float32, device=device)
    rows = [[level.resolution, level.offset, level.entries, int(level.dense)] for level in levels]
    return scales, torch.tensor(rows, dtype=torch.int32, device=device)


class _Encode(torch.autograd.Function):
    """(N, 3), (rows, F) -> (N, L, F)."""

    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, levels: tuple[Level, ...], smooth: bool) -> Tensor:
        kernels, vec3 = _kernels(table.shape[1]), native.warp().vec3
        x, table = x.contiguous(), table.contiguous()
        scales, grids = _tables(levels, x.device)
        out = torch.empty(len(x), len(levels), table.shape[1], device=x.device)
        values = [(x, vec3), (table, kernels.Row), scales, grids, smooth, (out, kernels.Row)]
        native.launch_split(kernels.forward, len(levels), (len(x),), values, x.device)
        ctx.save_for_backward(x, table)
        ctx.levels, ctx.smooth = levels, smooth
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, out_gradient: Tensor):
        x, table = ctx.saved_tensors
        kernels, vec3 = _kernels(table.shape[1]), native.warp().vec3
        scales, grids = _tables(ctx.levels, x.device)
        incoming = (out_gradient.contiguous(), kernels.Row)
        x_gradient = table_gradient = None
        if ctx.needs_input_grad[1]:
            table_gradient = torch.zeros_like(table)
            values = [(x, vec3), incoming, scales, grids, ctx.smooth, (table_gradient, kernels.Row)]
            native.launch_split(kernels.table_gradient, len(ctx.levels), (len(x),), values, x.device)
        if ctx.needs_input_grad[0]:
            x_gradient = torch.empty_like(x)
            values = [(x, vec3), (table, kernels.Row), incoming, scales, grids, ctx.smooth, (x_gradient, vec3)]
            native.launch_split(kernels.point_gradient, len(x), (), values, x.device)
        return x_gradient, table_gradient, None, None


def encode_native(x: Tensor, table: Tensor, levels: list[Level], smooth: bool) -> Tensor:
    """As `hash_encoding.encode_twin`, in float32, once differentiable in x and table."""
    if x.dtype != torch.float32 or table.dtype != torch.float32:
        raise InputError(f"the native encoding computes in float32, not {x.dtype}; backend='torch' does")
    return _Encode.apply(x, table, tuple(levels), smooth).flatten(1)
