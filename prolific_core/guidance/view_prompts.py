"""View words: what is appended to a prompt for a camera, in steps or interpolated."""

import math

import torch
from torch import Tensor

from prolific_core.cameras import OVERHEAD, Cameras, view_prompts
from prolific_core.prior.latent_diffusion import LatentDiffusion


def overhead(elevation: float) -> bool:
    """Whether a camera at this elevation (radians) looks from overhead, by the paper's bound."""
    return elevation > OVERHEAD


def embed(prior: LatentDiffusion, prompt: str, words: list[str]) -> Tensor:
    """Embeddings (B, L, D) of `PROMPT, WORDS`."""
    return prior.embed([f"{prompt}, {word}" for word in words])


def stepped(prior: LatentDiffusion, prompt: str, cameras: Cameras) -> Tensor:
    """Embeddings (B, L, D) with the paper's words by azimuth and elevation."""
    return embed(prior, prompt, view_prompts(cameras))


def interpolated(prior: LatentDiffusion, prompt: str, cameras: Cameras) -> Tensor:
    """Embeddings (B, L, D): front, side and back weighted by the azimuth, overhead above 60 degrees.

    DreamFusion (2209.14988, section 3.2), with the piecewise linear weights of Perp-Neg (2304.04968,
    section 4): front at 0 degrees, side at 90, back at 180.
    """
    quarter = torch.tensor([abs(math.remainder(a, 2 * math.pi)) for a in cameras.azimuth.tolist()]) / (math.pi / 2)
    above = torch.tensor([overhead(e) for e in cameras.elevation.tolist()])
    weights = {
        "front view": (1 - quarter).clamp_min(0),
        "side view": 1 - (quarter - 1).abs(),
        "back view": (quarter - 1).clamp_min(0),
    }
    weights = {word: weight.masked_fill(above, 0) for word, weight in weights.items()} | {
        "overhead view": above.float()
    }
    total = 0
    for word, weight in weights.items():
        text = embed(prior, prompt, [word])
        total = total + weight.to(text)[:, None, None] * text
    return total
