"""View-dependent prompting, which embeds the prompt with words that describe the camera position."""

import math

import torch

from prolific_core.cameras import Cameras
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import TextEmbeddings
from prolific_core.view_names import OVERHEAD


def embed(prior: LatentDiffusion, prompt: str, words: list[str]) -> TextEmbeddings:
    """Embed the prompt once for each view, followed by a comma and the words for the view.

    Args:
        prior: The model whose text encoder is used.
        prompt: Text of the prompt.
        words: Words for each view, such as "front view".

    Returns:
        One row per element of `words`.
    """
    return prior.embed([f"{prompt}, {word}" for word in words])


def interpolated(prior: LatentDiffusion, prompt: str, cameras: Cameras) -> TextEmbeddings:
    """Embed the prompt with view-dependent words, and interpolate the embeddings by azimuth.

    The method is that of DreamFusion (arXiv 2209.14988, section 3.2) with the piecewise linear weights of Perp-Neg
    (arXiv 2304.04968, section 4). The words are "front view" at an azimuth of 0 degrees, "side view" at 90 degrees and
    "back view" at 180 degrees. Views from elevations above 60 degrees use "overhead view" without interpolation.

    Args:
        prior: The model whose text encoder is used.
        prompt: Text of the prompt.
        cameras: Cameras of the views.

    Returns:
        One row per view.
    """
    angles = cameras.angles()
    quarter = torch.tensor([abs(math.remainder(azimuth, 2 * math.pi)) for azimuth, _ in angles]) / (math.pi / 2)
    overhead = torch.tensor([elevation > OVERHEAD for _, elevation in angles])
    weights = {
        "front view": (1 - quarter).clamp_min(0),
        "side view": 1 - (quarter - 1).abs(),
        "back view": (quarter - 1).clamp_min(0),
    }
    weights = {word: weight.masked_fill(overhead, 0) for word, weight in weights.items()}
    weights["overhead view"] = overhead.float()
    total = torch.zeros(())
    for word, weight in weights.items():
        text = embed(prior, prompt, [word])
        total = total + weight.to(text)[:, None, None] * text
    return total
