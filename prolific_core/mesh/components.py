"""Removal of floaters and hollows from a grid of signed distances, which are positive inside."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def drop_floaters(sdf: Float[Tensor, "n n n"], fraction: float) -> Float[Tensor, "n n n"]:
    """Flip the sign of the small 26-connected interior parts.

    Args:
        sdf: Signed distances.
        fraction: Fraction of the largest part's points below which a part is small; 0 keeps all parts.
    """
    if fraction <= 0:
        return sdf
    label, count = _parts(sdf > 0, connectivity=3)
    if count == 0:
        return sdf
    size = np.bincount(label.reshape(-1))
    size[0] = 0
    drop = size < fraction * size.max()
    drop[0] = False
    return torch.where(torch.from_numpy(drop[label]).to(sdf.device), -sdf, sdf)


def fill_hollows(sdf: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """Flip the sign of the 6-connected exterior parts that do not reach the grid's boundary.

    Exact zeros, which count as outside, become the smallest positive values of the neighbourhood's scale (1e-3).

    Args:
        sdf: Signed distances.
    """
    label, count = _parts(sdf <= 0, connectivity=1)
    if count == 0:
        return sdf
    outside = np.zeros(count + 1, bool)
    for axis in range(3):
        outside[np.unique(label.take((0, -1), axis))] = True
    outside[0] = True  # the inside of the surface
    hollow = torch.from_numpy(~outside[label]).to(sdf.device)
    return torch.where(hollow, (-sdf).clamp(min=1e-3), sdf)


def _parts(mask: Tensor, connectivity: int) -> tuple[np.ndarray, int]:
    """Return the number (1, 2, ...) of the connected part of each point of a mask, 0 outside it, and their count."""
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, connectivity)
    return ndimage.label(mask.cpu().numpy(), structure)  # pyright: ignore[reportReturnType] (untyped)
