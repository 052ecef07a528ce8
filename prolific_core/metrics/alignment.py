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


def r_precision(scorer: Scorer, views: Float[Tensor, "views 3 height width"], text: str, others: list[str]) -> float:
    """Compute the fraction of images that are more similar to their text than to any other text.

    This is R-precision at 1 (Park et al. 2021, NeurIPS Datasets and Benchmarks; DreamFusion, arXiv 2209.14988, section
    4), with CLIP as the retrieval model.

    Args:
        scorer: Scorer that embeds the images and the texts.
        views: Images (B, 3, H, W) in [0, 1].
        text: The prompt.
        others: Other prompts, which do not include `text`.

    Returns:
        The fraction, in [0, 1]. Chance is 1 / (len(others) + 1).
    """
    return float((scorer.similarity(views, [text, *others]).argmax(1) == 0).float().mean())
