"""Regularisers of a radiance field's renders: scalars, unweighted, lower is better.

Each takes a `Render` (or its opacity) and says where its formula is from.
"""

import torch
from torch import Tensor

from prolific_core.render import Render


def opacity(render: Render) -> Tensor:
    """Mean opacity: pulls the occupied share of the picture down, against objects that swell."""
    return render.opacity.mean()


def sparsity(render: Render) -> Tensor:
    """Mean of sqrt(opacity^2 + 0.01) (DreamFusion, arXiv 2209.14988): less haze around the object."""
    return (render.opacity.square() + 0.01).sqrt().mean()


def opacity_bce(render: Render) -> Tensor:
    """Binary cross entropy of the opacity with itself: 0 where a pixel is empty or opaque, log 2 at a half."""
    share = render.opacity.clamp(1e-3, 1 - 1e-3)
    return -(share * share.log() + (1 - share) * (1 - share).log()).mean()


def entropy(render: Render) -> Tensor:
    """Mean entropy, in bits, of where along its ray a pixel's weight lies.

    With p_i = w_i / opacity: - sum p_i log2 p_i, averaged over all rays and
    weighted by their opacity (InfoNeRF, arXiv 2112.15399, eq. 5, masks rays
    instead): small when each ray meets one thin surface. Equal to
    (opacity log2 opacity - sum w log2 w) summed over rays, hence no division.
    """
    if render.weights is None:
        raise ValueError("weight entropy needs a volume's render")
    rays = render.opacity.numel()
    tiny = torch.finfo(render.weights.dtype).tiny
    weights, share = render.weights.clamp(min=tiny), render.opacity.clamp(min=tiny)
    return ((share * share.log2()).sum() - (weights * weights.log2()).sum()) / rays


def orientation(render: Render, directions: Tensor) -> Tensor:
    """Penalty on visible normals that face away from the camera (Ref-NeRF, arXiv 2112.03907, eq. 11).

    sum w max(0, n . d)^2 per ray, averaged; d: unit directions (B, H, W, 3).
    The render must have been asked for normals. Weights are held constant, so
    that the penalty turns surfaces instead of hiding them.
    """
    if render.sample_normals is None:
        raise ValueError("the orientation loss needs a render with normals=True")
    towards = directions.reshape(-1, 3)[render.samples.ray_index.long()]
    away = (render.sample_normals * towards).sum(-1).clamp(min=0)
    return (render.weights.detach() * away.square()).sum() / render.opacity.numel()
