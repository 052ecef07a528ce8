"""When to look (the time t) and how much to listen (the weight w)."""

import math

import torch
from torch import Tensor

from prolific_core.config import TimeConfig


def upper_bound(config: TimeConfig, progress: float) -> float:
    """The upper end of t's range, as a fraction of T, at `progress` in [0, 1] of the run."""
    if config.anneal == "step":
        return config.maximum if progress < config.at else config.final
    if config.anneal == "sqrt":
        return config.maximum + (config.final - config.maximum) * math.sqrt(progress)
    return config.maximum


def sample_times(batch: int, config: TimeConfig, progress: float, length: int, generator: torch.Generator) -> Tensor:
    """t ~ U(minimum, upper) x T as integers (B,)."""
    low, high = config.minimum * length, max(upper_bound(config, progress), config.minimum) * length
    t = low + (high - low) * torch.rand(batch, generator=generator)
    return t.long().clamp(0, length - 1)


def weight(name: str, alpha_bar: Tensor) -> Tensor:
    """w(t): `one_minus_alpha_bar` (the paper's and DreamFusion's) or `uniform`."""
    return 1 - alpha_bar if name == "one_minus_alpha_bar" else torch.ones_like(alpha_bar)
