"""Diversity and colour saturation of a set of images.

The values should be compared with those of a reference set.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def pairwise_distance(rows: Float[Tensor, "rows dimensions"]) -> float:
    """Compute the mean Euclidean distance over all pairs of rows.

    Example:
        >>> pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        5.0

    Args:
        rows: Features (N, D), N > 1.

    Returns:
        The mean distance, in the unit of the features.
    """
    return float(torch.pdist(rows.double()).mean())


def vendi_score(rows: Float[Tensor, "rows dimensions"]) -> float:
    """Compute the Vendi score, the effective number of different rows (Friedman & Dieng, arXiv 2210.02410, eq. 2).

    It is the exponential of the entropy of the eigenvalues of K / N, where K holds the cosine similarities of the rows.

    Example:
        >>> round(vendi_score(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])), 3)
        1.89

    Args:
        rows: Features (N, D), none of which is zero.

    Returns:
        The score, from 1 (all rows have the same direction) to N (all are orthogonal).
    """
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    values = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp(min=1e-12)
    return float((-(values * values.log()).sum()).exp())


def saturation(images: Float[Tensor, "batch 3 height width"]) -> float:
    """Compute the mean HSV saturation.

    The saturation of a pixel is (max - min) / max over its channels, and 0 for black.

    Args:
        images: Images (B, 3, H, W) in [0, 1].

    Returns:
        The mean saturation, in [0, 1].
    """
    top, bottom = images.amax(1), images.amin(1)
    return float(((top - bottom) / top.clamp(min=1e-6)).mean())
