"""Compositing of packed samples along each ray (volume rendering quadrature).

With density s_i and step length d_i (Max 1995; NeRF, arXiv 2003.08934, eq. 3):

    alpha_i = 1 - exp(-s_i d_i)     T_i = exp(-sum over j < i of s_j d_j)     w_i = T_i alpha_i
    colour = sum w_i c_i     opacity = sum w_i     depth = sum w_i t_i

Backward, with g_i = dL/dw_i + dL/dcolour . c_i + dL/dopacity + dL/ddepth t_i:

    dL/ds_i = d_i (T_{i+1} g_i - sum over j > i of w_j g_j)     dL/dc_i = w_i dL/dcolour

One thread owns a ray in both directions: nothing is added in parallel, so the
result is the same bytes on every run, on a GPU too.
"""

from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.render import backends
from prolific_core.render import warp_launch as native
from prolific_core.render.volume.marching import Samples


class Composite(NamedTuple):
    """weights (M,); colour (R, 3), without background; opacity (R,) in [0, 1];
    depth (R,): the sum of w t, not divided by the opacity. Rays without samples are 0."""

    weights: Tensor
    colour: Tensor
    opacity: Tensor
    depth: Tensor


def composite(density: Tensor, colour: Tensor, samples: Samples, backend: str = "auto") -> Composite:
    """Blend per-sample density (M,) >= 0 (per world unit) and colour (M, 3).

    Differentiable once in density and colour; the samples are constants.
    """
    name = backends.choose("compositing", backend, density.device).name
    if name == backends.REFERENCE:
        return composite_reference(density, colour, samples)
    if name == "nerfacc":
        return composite_nerfacc(density, colour, samples)
    if density.dtype != torch.float32 or colour.dtype != torch.float32:
        raise InputError(f"native compositing computes in float32, not {density.dtype}; backend='torch' does")
    return Composite(*_Composite.apply(density, colour, samples.start, samples.end, samples.offsets))


def composite_reference(density: Tensor, colour: Tensor, samples: Samples) -> Composite:
    """As `composite`, in plain PyTorch over a padded (R, S) table; any float type."""
    rays, index, offsets = samples.rays, samples.ray_index.long(), samples.offsets.long()
    column = torch.arange(len(samples), device=density.device) - offsets[index]
    width = int((offsets[1:] - offsets[:-1]).max()) if rays else 0
    thickness = density.new_zeros(rays, width + 1)
    thickness = thickness.index_put((index, column + 1), density * samples.length)
    before = thickness.cumsum(1)[index, column]
    weights = torch.exp(-before) * -torch.expm1(-density * samples.length)

    def accumulate(value: Tensor) -> Tensor:
        return value.new_zeros(rays, *value.shape[1:]).index_add(0, index, value)

    return Composite(
        weights,
        accumulate(weights[:, None] * colour),
        accumulate(weights),
        accumulate(weights * samples.middle),
    )


def composite_nerfacc(density: Tensor, colour: Tensor, samples: Samples) -> Composite:
    """As `composite`, by nerfacc 0.5's packed functions (CUDA only; not run on this project's machines)."""
    import nerfacc

    where = {"ray_indices": samples.ray_index.long(), "n_rays": samples.rays}
    weights, _, _ = nerfacc.render_weight_from_density(samples.start, samples.end, density, **where)
    return Composite(
        weights,
        nerfacc.accumulate_along_rays(weights, values=colour, **where),
        nerfacc.accumulate_along_rays(weights, values=None, **where)[:, 0],
        nerfacc.accumulate_along_rays(weights, values=samples.middle[:, None], **where)[:, 0],
    )


@lru_cache(maxsize=1)
def _kernels() -> SimpleNamespace:
    wp = native.warp()
    module = wp.get_module("prolific_core.compositing")

    @wp.func(module=module)
    def alpha_of(thickness: wp.float32):
        # 1 - exp(-x) cancels for small x; its series is exact to float32 below 0.01.
        series = thickness * (1.0 - thickness * (0.5 - thickness * (1.0 / 6.0)))
        return wp.where(thickness < 0.01, series, 1.0 - wp.exp(-thickness))

    @wp.kernel(module=module, enable_backward=False)
    def forward(
        first: wp.int32,
        density: wp.array(dtype=wp.float32),
        colour: wp.array(dtype=wp.vec3),
        start: wp.array(dtype=wp.float32),
        end: wp.array(dtype=wp.float32),
        offsets: wp.array(dtype=wp.int32),
        weights: wp.array(dtype=wp.float32),
        colours: wp.array(dtype=wp.vec3),
        opacities: wp.array(dtype=wp.float32),
        depths: wp.array(dtype=wp.float32),
    ):
        piece = wp.tid()
        ray = first + piece
        thickness = wp.float32(0.0)
        rgb = wp.vec3()
        opacity = wp.float32(0.0)
        depth = wp.float32(0.0)
        for i in range(offsets[ray], offsets[ray + 1]):
            step = density[i] * (end[i] - start[i])
            w = wp.exp(-thickness) * alpha_of(step)
            thickness += step
            weights[i] = w
            rgb += w * colour[i]
            opacity += w
            depth += w * (0.5 * (start[i] + end[i]))
        colours[ray] = rgb
        opacities[ray] = opacity
        depths[ray] = depth

    @wp.kernel(module=module, enable_backward=False)
    def backward(
        first: wp.int32,
        density: wp.array(dtype=wp.float32),
        colour: wp.array(dtype=wp.vec3),
        start: wp.array(dtype=wp.float32),
        end: wp.array(dtype=wp.float32),
        offsets: wp.array(dtype=wp.int32),
        weights: wp.array(dtype=wp.float32),
        weight_gradient: wp.array(dtype=wp.float32),
        colour_gradient: wp.array(dtype=wp.vec3),
        opacity_gradient: wp.array(dtype=wp.float32),
        depth_gradient: wp.array(dtype=wp.float32),
        density_out: wp.array(dtype=wp.float32),
        colour_out: wp.array(dtype=wp.vec3),
    ):
        piece = wp.tid()
        ray = first + piece
        per_colour = colour_gradient[ray]
        per_opacity = opacity_gradient[ray]
        per_depth = depth_gradient[ray]
        thickness = wp.float32(0.0)
        for i in range(offsets[ray], offsets[ray + 1]):
            thickness += density[i] * (end[i] - start[i])
        behind = wp.float32(0.0)  # sum over later samples of w g
        for k in range(offsets[ray + 1] - offsets[ray]):
            i = offsets[ray + 1] - 1 - k
            length = end[i] - start[i]
            g = weight_gradient[i] + wp.dot(per_colour, colour[i]) + per_opacity
            g += per_depth * (0.5 * (start[i] + end[i]))
            density_out[i] = length * (wp.exp(-thickness) * g - behind)
            colour_out[i] = weights[i] * per_colour
            behind += weights[i] * g
            thickness -= density[i] * length

    return SimpleNamespace(forward=forward, backward=backward)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, colour, start, end, offsets):
        kernels, vec3, device = _kernels(), native.warp().vec3, density.device
        density, colour = density.contiguous(), colour.contiguous()
        rays = len(offsets) - 1
        weights = torch.empty_like(density)
        colours = torch.empty(rays, 3, device=device)
        opacity, depth = torch.empty(rays, device=device), torch.empty(rays, device=device)
        values = [density, (colour, vec3), start, end, offsets, weights, (colours, vec3), opacity, depth]
        native.launch_split(kernels.forward, rays, (), values, device)
        ctx.save_for_backward(density, colour, start, end, offsets, weights)
        return weights, colours, opacity, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, weight_gradient, colour_gradient, opacity_gradient, depth_gradient):
        density, colour, start, end, offsets, weights = ctx.saved_tensors
        kernels, vec3 = _kernels(), native.warp().vec3
        density_out, colour_out = torch.empty_like(density), torch.empty_like(colour)
        values = [
            density,
            (colour, vec3),
            start,
            end,
            offsets,
            weights,
            weight_gradient.contiguous(),
            (colour_gradient.contiguous(), vec3),
            opacity_gradient.contiguous(),
            depth_gradient.contiguous(),
            density_out,
            (colour_out, vec3),
        ]
        native.launch_split(kernels.backward, len(offsets) - 1, (), values, density.device)
        return density_out, colour_out, None, None, None
