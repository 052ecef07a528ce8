"""Measurement of the box in which the surface of a field lies."""

import torch

from prolific_core.scenes.surface import TetrahedralSurface

#: Distance between the outermost point inside the surface and the box, in world units, as in the official release.
MARGIN = 0.1


@torch.no_grad()
def measured_extent(surface: TetrahedralSurface, bound: float) -> float:
    """Return the extent of a grid that encloses a surface, as in the official release of ProlificDreamer.

    The surface was extracted in the whole box of its field. A grid that is larger than the surface wastes resolution,
    and a smaller one cuts the object. Floaters, which `TetrahedralSurface.from_values` removes, do not count.

    Args:
        surface: The surface in the box of the field.
        bound: Half the side of the field's box in world units.

    Returns:
        Half the side of the box in world units, at most `bound`.
    """
    inside = surface.points[surface.sdf > 0]
    return min(float(inside.abs().max()) + MARGIN, bound)
