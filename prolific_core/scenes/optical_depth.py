"""Least optical depth from points of a density grid to the outside.

A point of an object is inside if no camera sees it. The optical depth between a point and a distant camera is the
integral of the density along the ray; the transmittance is exp(-optical depth). The least optical depth over all
directions therefore tells how hidden a point is. Unlike the density, it does not depend on how dense a field has become
behind the surfaces that its training views show: hollow parts without an opening are inside, and a thin fog in front of
an object is outside.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Lowest elevation of the directions in degrees. Training views hardly show an object from below, so that a hollow
#: object may be open there.
LOWEST_ELEVATION = -30.0


def spread_directions(
    count: int, lowest: float = LOWEST_ELEVATION, device: str | torch.device = "cpu"
) -> Float[Tensor, "directions 3"]:
    """Return unit directions that are evenly spread above an elevation, on a Fibonacci spiral.

    Args:
        count: Number K of directions.
        lowest: Lowest elevation in degrees.
        device: Device of the result.
    """
    index = torch.arange(count, device=device) + 0.5
    low = math.sin(math.radians(lowest))
    z = low + (1 - low) * index / count
    azimuth = index * (math.pi * (3 - math.sqrt(5)))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], dim=-1)


def least_optical_depth(
    density: Float[Tensor, "n n n"], extent: float, directions: Float[Tensor, "directions 3"]
) -> Float[Tensor, "n n n"]:
    """Compute the least optical depth over directions to distant cameras, at every point of a grid.

    Args:
        density: Densities per world unit at the points of a grid over [-extent, extent]^3, indexed [x, y, z]. The space
            around the grid is empty.
        extent: Half the side of the grid's box in world units.
        directions: Unit directions (K, 3) from the object to the cameras.

    Returns:
        Optical depths, at least 0.
    """
    least = torch.full_like(density, torch.inf)
    for direction in directions:
        least = torch.minimum(least, optical_depth(density, extent, direction))
    return least


def optical_depth(
    density: Float[Tensor, "n n n"], extent: float, direction: Float[Tensor, " 3"]
) -> Float[Tensor, "n n n"]:
    """Compute the optical depth to a distant camera at every point of a grid.

    The density is resampled to a grid that is turned towards the camera, summed along the rays, and sampled at the
    points of the first grid. All interpolation is linear.

    Args:
        density: Densities per world unit; see `least_optical_depth`.
        extent: Half the side of the grid's box in world units.
        direction: Unit direction (3,) to the camera.

    Returns:
        Optical depths, at least 0.
    """
    n, device = len(density), density.device
    axes = _frame(direction)
    reach = extent * math.sqrt(3)  # the turned grid must hold the box's corners
    side = math.ceil(n * math.sqrt(3))
    line = torch.linspace(-reach, reach, side, device=device)
    turned = torch.empty(side, side, side, device=device)
    plane = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    for i, first in enumerate(line):  # one sheet of rays at a time, to save memory
        local = torch.cat([first.expand(side, side, 1), plane], -1)
        turned[i] = _sample(density, local @ axes.T / extent)
    step = 2 * reach / (side - 1)
    # The sum from the far end of each ray, in which a point's own cell counts by half.
    total = (turned.flip(2).cumsum(2).flip(2) - turned / 2) * step
    line = torch.linspace(-extent, extent, n, device=device)
    plane = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    depth = torch.empty_like(density)
    for i, first in enumerate(line):
        points = torch.cat([first.expand(n, n, 1), plane], -1)
        depth[i] = _sample(total, points @ axes / reach)
    return depth


def _frame(direction: Tensor) -> Float[Tensor, "3 3"]:
    """Return an orthonormal matrix whose last column is the direction."""
    helper = torch.zeros_like(direction)
    helper[int(direction.abs().argmin())] = 1
    first = F.normalize(torch.linalg.cross(helper, direction), dim=0)
    return torch.stack([first, torch.linalg.cross(direction, first), direction], dim=1)


def _sample(grid: Float[Tensor, "a b c"], points: Float[Tensor, "u v 3"]) -> Float[Tensor, "u v"]:
    """Interpolate a grid over [-1, 1]^3, indexed [x, y, z], at points; the space around it is 0."""
    place = points.flip(-1)[None, None]  # grid_sample expects the last axis first
    return F.grid_sample(grid[None, None], place, align_corners=True)[0, 0, 0]
