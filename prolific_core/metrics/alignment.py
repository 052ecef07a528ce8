"""Does the picture fit the text? By a scorer in the CLIP layout."""

from torch import Tensor

from prolific_core.prior.scorer import Scorer


def alignment(scorer: Scorer, views: Tensor, text: str) -> float:
    """Mean cosine similarity of the views (B, 3, H, W) in [0, 1] with the text; in [-1, 1]."""
    return float(scorer.similarity(views, [text]).mean())
