"""Regularisers of a radiance field's renders, as unweighted scalars to be minimised."""

from jaxtyping import Float
from torch import Tensor

from prolific_core.render import Render

#: Samples per ray of the official release, 64 and 32 by importance.
RELEASE_SAMPLES = 96


def opacity(render: Render) -> Float[Tensor, ""]:
    """Return the mean opacity, which penalises large objects."""
    return render.opacity.mean()


def sparsity(render: Render) -> Float[Tensor, ""]:
    """Return the mean of sqrt(opacity^2 + 0.01), which reduces haze around the object.

    This is the regulariser of DreamFusion (arXiv 2209.14988).
    """
    return (render.opacity.square() + 0.01).sqrt().mean()


def entropy(render: Render) -> Float[Tensor, ""]:
    """Return the entropy, in bits, of the compositing weights, as in the official release of ProlificDreamer.

    Each weight w counts with its binary entropy -w log2 w - (1 - w) log2 (1 - w), which is small for w near 0 or 1, so
    that rays hit a single thin surface or nothing. The release averages over rays and over their 96 samples. Here, the
    sum along a ray is divided by 96 for any number of samples, so that the loss has the same scale. Samples in empty
    space are skipped by the renderer and contribute nothing.

    Args:
        render: Render of a volume, with gradients.

    Raises:
        ValueError: The render has no weights.
    """
    if render.weights is None:
        raise ValueError("the entropy must be computed from the render of a volume with gradients")
    w = render.weights.clamp(1e-5, 1 - 1e-5)
    bits = -w * w.log2() - (1 - w) * (1 - w).log2()
    return bits.sum() / (RELEASE_SAMPLES * render.opacity.numel())


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
