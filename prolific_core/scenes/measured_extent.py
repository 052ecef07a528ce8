"""Measurement of the box in which the surface of a field lies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prolific_core.scenes.surface import TetrahedralSurface

#: Distance between the outermost point inside the surface and the box, in world units, as in the official release.
MARGIN = 0.1


@torch.no_grad()
def measured_extent(
    density_fn: Callable[[Tensor], Tensor], threshold: float, resolution: int, bound: float, **options: Any
) -> float:
    """Return the extent of a grid that encloses the surface of a field, as in the official release of ProlificDreamer.

    The surface is first extracted in the whole box of the field. A grid that is larger than the surface wastes
    resolution, and a smaller one cuts the object. Floaters, which `TetrahedralSurface.from_density` removes, do not
    count.

    Args:
        density_fn: Function from world points (N, 3) to densities (N,) or (N, 1), at least 0.
        threshold: Density at the surface.
        resolution: Number of cubes per side of the grid.
        bound: Half the side of the field's box in world units.
        options: Further arguments of `TetrahedralSurface.from_density`.

    Returns:
        Half the side of the box in world units, at most `bound`.

    Raises:
        EmptyMesh: The surface is empty.
    """
    surface = TetrahedralSurface.from_density(density_fn, threshold, resolution, bound, **options)
    inside = surface.points[surface.sdf > 0]
    return min(float(inside.abs().max()) + MARGIN, bound)
