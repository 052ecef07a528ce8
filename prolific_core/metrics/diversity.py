"""How varied and how saturated a set of pictures is; to be read as ratios to the truth's."""

import torch
from torch import Tensor


def pairwise_distance(rows: Tensor) -> float:
    """Mean Euclidean distance between different rows of (N, D); N > 1."""
    return float(torch.pdist(rows.double()).mean())


def saturation(images: Tensor) -> float:
    """Mean HSV saturation, in [0, 1], of images (B, 3, H, W) in [0, 1]: (max - min) / max, 0 for black."""
    top, bottom = images.amax(1), images.amin(1)
    return float(((top - bottom) / top.clamp(min=1e-6)).mean())
