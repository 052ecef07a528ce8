"""Compositing of packed samples along each ray by the volume rendering quadrature.

With density s_i and step length d_i (Max 1995; NeRF, arXiv 2003.08934, eq. 3):

    alpha_i = 1 - exp(-s_i d_i)     T_i = exp(-sum over j < i of s_j d_j)     w_i = T_i alpha_i
    colour = sum w_i c_i     opacity = sum w_i     depth = sum w_i t_i

The backward pass, with g_i = dL/dw_i + dL/dcolour . c_i + dL/dopacity + dL/ddepth t_i, is

    dL/ds_i = d_i (T_{i+1} g_i - sum over j > i of w_j g_j)     dL/dc_i = w_i dL/dcolour

Each ray is processed by one thread in both passes. There are no parallel additions, so results are bitwise reproducible
even on a GPU.
"""
# Warp kernels are annotated with Warp's types, which type checkers do not accept.
# pyright: basic, reportInvalidTypeForm=false

from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.render import backends, warp_launch
from prolific_core.render.volume.marching import Samples


class Composite(NamedTuple):
    """Result of compositing M samples of R rays, with zeros for rays without samples.

    Attributes:
        weights: Contribution (M,) of each sample to its ray.
        colour: Colour (R, 3) without a background.
        opacity: Opacity (R,) in [0, 1].
        depth: Sum (R,) of weight times distance, not divided by the opacity, in world units.
    """

    weights: Float[Tensor, " samples"]
    colour: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]


def composite(
    density: Float[Tensor, " samples"], colour: Float[Tensor, "samples 3"], samples: Samples, backend: str = "auto"
) -> Composite:
    """Composite the densities and colours of samples along each ray.

    The result can be differentiated once with respect to density and colour. The samples are treated as constants.

    Example:
        >>> samples = Samples(
        ...     torch.tensor([0, 0], dtype=torch.int32), torch.tensor([1.0, 1.5]), torch.tensor([1.5, 2.0]),
        ...     torch.tensor([0, 2], dtype=torch.int32),
        ... )
        >>> composite(torch.tensor([0.0, 1e6]), torch.ones(2, 3), samples, backend="torch").depth
        tensor([1.7500])

    Args:
        density: Density (M,) of each sample, at least 0, per world unit.
        colour: Colour (M, 3) of each sample.
        samples: The M samples.
        backend: Kernel backend; see `backends.choose`.

    Returns:
        The weights of the samples and the sums along each ray.

    Raises:
        InputError: The Warp backend is used with tensors that are not float32.
        BackendMissing: The requested backend cannot run on the device.
    """
    name = backends.choose("compositing", backend, density.device).name
    if name == backends.REFERENCE:
        return composite_reference(density, colour, samples)
    if name == "nerfacc":
        return composite_nerfacc(density, colour, samples)
    if density.dtype != torch.float32 or colour.dtype != torch.float32:
        raise InputError(
            f"density and colour must be float32, got {density.dtype} and {colour.dtype}; use backend='torch'"
        )
    return Composite(*_Composite.apply(density, colour, samples.start, samples.end, samples.offsets))


def composite_reference(
    density: Float[Tensor, " samples"], colour: Float[Tensor, "samples 3"], samples: Samples
) -> Composite:
    """Composite samples of any float type in plain PyTorch, using a padded table (R, S); see `composite`."""
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


def composite_nerfacc(
    density: Float[Tensor, " samples"], colour: Float[Tensor, "samples 3"], samples: Samples
) -> Composite:
    """Composite samples with nerfacc 0.5, which requires CUDA and has not been run in this project."""
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
@no_type_check
def _kernels() -> SimpleNamespace:
    wp = warp_launch.warp()
    module = wp.get_module("prolific_core.compositing")

    @wp.func(module=module)
    def alpha_of(thickness: wp.float32):
        # 1 - exp(-x) loses precision for small x, whereas its series is exact to float32 below 0.01.
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
    """Autograd function that computes weights, colour, opacity and depth with the Warp kernels."""

    @staticmethod
    def forward(ctx, density, colour, start, end, offsets):
        kernels, vec3, device = _kernels(), warp_launch.warp().vec3, density.device
        density, colour = density.contiguous(), colour.contiguous()
        rays = len(offsets) - 1
        weights = torch.empty_like(density)
        colours = torch.empty(rays, 3, device=device)
        opacity, depth = torch.empty(rays, device=device), torch.empty(rays, device=device)
        values = [density, (colour, vec3), start, end, offsets, weights, (colours, vec3), opacity, depth]
        warp_launch.launch_split(kernels.forward, rays, (), values, device)
        ctx.save_for_backward(density, colour, start, end, offsets, weights)
        return weights, colours, opacity, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, weight_gradient, colour_gradient, opacity_gradient, depth_gradient):
        density, colour, start, end, offsets, weights = ctx.saved_tensors
        kernels, vec3 = _kernels(), warp_launch.warp().vec3
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
        warp_launch.launch_split(kernels.backward, len(offsets) - 1, (), values, density.device)
        return density_out, colour_out, None, None, None
