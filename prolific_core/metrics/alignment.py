"""Similarity of images and text, measured by a CLIP-style scorer."""

from jaxtyping import Float
from torch import Tensor

from prolific_core.prior.scorer import Scorer


def alignment(scorer: Scorer, views: Float[Tensor, "views 3 height width"], text: str) -> float:
    """Compute the mean cosine similarity between images and a text (CLIP; Radford et al. 2021, arXiv 2103.00020).

    Args:
        scorer: Scorer that embeds the images and the text.
        views: Images (B, 3, H, W) in [0, 1].
        text: The prompt.

    Returns:
        The mean similarity, in [-1, 1].
    """
    return float(scorer.similarity(views, [text]).mean())
