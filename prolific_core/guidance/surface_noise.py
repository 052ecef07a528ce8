"""Gaussian noise on the surface of an object, which all views of a point share.

The surface is projected from the origin onto the six sides of a cube, whose cells hold independent standard normal
numbers z_k. A latent pixel in which w_k samples of the surface are in cell k has the noise

    n = sum_k w_k z_k / sqrt(sum_k w_k^2),

which is standard normal again. Two latent pixels are independent unless they share a cell. This is the noise transport
of Consistent Flow Distillation (arXiv 2501.05445), whose implementation rasterises the surface in another
parametrisation of the sphere instead of sampling it.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from prolific_core.cameras import Cameras
from prolific_core.prior.noise_schedule import Latents
from prolific_core.render.result import Render

SIDES = 6  # of the cube


@dataclass(frozen=True)
class VisibleCells:
    """Cells of the cube that are seen in the latent pixels of some views.

    Attributes:
        cells: Number of the cell of each sample.
        covered: Whether the object covers the sample.
        per_pixel: Samples of a latent pixel along each axis.
    """

    cells: Int[Tensor, "batch height width"]
    covered: Bool[Tensor, "batch height width"]
    per_pixel: int


def cells_of(points: Float[Tensor, "*batch 3"], side: int) -> Int[Tensor, "*batch"]:
    """Return the cells of the cube onto which points are projected from the origin.

    Args:
        points: Points (..., 3) in world coordinates.
        side: Number of cells along an edge of the cube, which are equal in angle.

    Returns:
        Numbers from 0 to `SIDES * side**2 - 1`.
    """
    axis = points.abs().argmax(-1)
    length = points.gather(-1, axis[..., None])
    others = torch.stack([(axis + 1) % 3, (axis + 2) % 3], -1)
    angle = torch.atan(points.gather(-1, others) / length.abs().clamp(min=1e-12))  # from -pi / 4 to pi / 4
    row, column = ((angle / (math.pi / 2) + 0.5) * side).long().clamp(0, side - 1).unbind(-1)
    face = 2 * axis + (length[..., 0] < 0)
    return (face * side + row) * side + column


def visible_cells(render: Render, cameras: Cameras, latent_side: int, side: int, per_pixel: int) -> VisibleCells:
    """Sample the surface that a render shows.

    Args:
        render: A render with depth.
        cameras: The cameras of the render.
        latent_side: Height and width of the latents in pixels.
        side: Number of cells along an edge of the cube.
        per_pixel: Samples of a latent pixel along each axis.

    Returns:
        The cells at the samples.
    """
    assert render.depth is not None
    size = latent_side * per_pixel
    origins, directions = cameras.rays(size)
    depth, opacity = (interpolate(image.detach(), size=(size, size)) for image in (render.depth, render.opacity))
    points = origins + depth[:, 0, :, :, None] * directions
    return VisibleCells(cells_of(points, side), (opacity[:, 0] > 0.5) & (depth[:, 0] > 0), per_pixel)


def transport(values: Float[Tensor, "cells channels"], seen: VisibleCells, behind: Latents) -> Latents:
    """Return the noise of latent pixels that see a surface.

    Args:
        values: Standard normal numbers of the cells.
        seen: Cells that the latent pixels see.
        behind: Noise (B, C, h, w) of the latent pixels of which the object covers less than half.

    Returns:
        The noise (B, C, h, w) given in the module's docstring.
    """
    batch, channels, height, width = behind.shape
    k, count = seen.per_pixel, len(values)
    pixels = torch.arange(batch * height * width, device=values.device).view(batch, height, width)
    pixels = pixels.repeat_interleave(k, 1).repeat_interleave(k, 2)
    keys = (pixels * count + seen.cells)[seen.covered]
    found = torch.unique(keys, return_counts=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    pairs, counts = cast("tuple[Tensor, Tensor]", found)
    pixel, weight = pairs // count, counts.to(values)
    total = values.new_zeros(batch * height * width, channels)
    total.index_add_(0, pixel, weight[:, None] * values[pairs % count])
    squared = values.new_zeros(len(total)).index_add_(0, pixel, weight.square())
    samples = values.new_zeros(len(total)).index_add_(0, pixel, weight)
    noise = (total / squared.clamp(min=1).sqrt()[:, None]).view(batch, height, width, channels).permute(0, 3, 1, 2)
    return torch.where((2 * samples >= k * k).view(batch, 1, height, width), noise, behind)
