"""Regularisers of a radiance field's renders, as unweighted scalars to be minimised."""

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.render import Render


def opacity(render: Render) -> Float[Tensor, ""]:
    """Return the mean opacity, which penalises large objects."""
    return render.opacity.mean()


def sparsity(render: Render) -> Float[Tensor, ""]:
    """Return the mean of sqrt(opacity^2 + 0.01), which reduces haze around the object.

    This is the regulariser of DreamFusion (arXiv 2209.14988).
    """
    return (render.opacity.square() + 0.01).sqrt().mean()


def entropy(render: Render) -> Float[Tensor, ""]:
    """Return the mean entropy, in bits, of the distribution of the weights along each ray.

    The mean is small if each ray hits a single thin surface. The entropy of a ray is -sum p_i log2 p_i with
    p_i = w_i / opacity. This entropy is weighted by the ray's opacity and averaged over rays, whereas InfoNeRF (arXiv
    2112.15399, equation 5) masks rays. The weighted entropy equals opacity log2 opacity - sum w_i log2 w_i, which
    avoids the division.

    Args:
        render: Render of a volume, with gradients.

    Raises:
        ValueError: The render has no weights.
    """
    if render.weights is None:
        raise ValueError("the entropy must be computed from the render of a volume with gradients")
    rays = render.opacity.numel()
    tiny = torch.finfo(render.weights.dtype).tiny
    weights, opacity = render.weights.clamp(min=tiny), render.opacity.clamp(min=tiny)
    return ((opacity * opacity.log2()).sum() - (weights * weights.log2()).sum()) / rays


def orientation(render: Render, directions: Float[Tensor, "batch height width 3"]) -> Float[Tensor, ""]:
    """Return the penalty on visible normals that face away from the camera (Ref-NeRF, arXiv 2112.03907, eq. 11).

    The penalty is sum w max(0, n . d)^2 for each ray, averaged over rays. No gradient flows into the weights, so that
    the penalty rotates surfaces instead of hiding them.

    Args:
        render: Render of a volume, with gradients and normals.
        directions: Unit directions d (B, H, W, 3) of the rays.

    Raises:
        ValueError: The render has no normals.
    """
    if render.samples is None or render.weights is None or render.sample_normals is None:
        raise ValueError("the orientation loss must be computed from a render with normals=True and gradients")
    towards = directions.reshape(-1, 3)[render.samples.ray_index.long()]
    away = (render.sample_normals * towards).sum(-1).clamp(min=0)
    return (render.weights.detach() * away.square()).sum() / render.opacity.numel()
