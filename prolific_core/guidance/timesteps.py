"""When to look (the time t) and how much to listen (the weight w)."""

import math

import torch
from torch import Tensor

from prolific_core.config import TimeConfig

#: How far from `maximum` to `final` the upper end of t's range has come, by progress in [0, 1].
ANNEALING = {
    "none": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "sqrt": math.sqrt,  # the square root: fast at first (HiFA, 2305.18766)
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}

#: w(t) of alpha_bar (B,), on the eps scale.
WEIGHTS = {
    # sigma^2: DreamFusion (2209.14988), ProlificDreamer (2305.16213) and most releases.
    "one_minus_alpha_bar": lambda alpha_bar: 1 - alpha_bar,
    # Score Jacobian chaining (2212.00774) comes to this in eps.
    "uniform": torch.ones_like,
    # alpha sigma^2: Fantasia3D's release (2303.13873), `fantasia3d` in threestudio.
    "alpha_sigma_squared": lambda alpha_bar: alpha_bar.sqrt() * (1 - alpha_bar),
}


def upper_bound(config: TimeConfig, progress: float) -> float:
    """The upper end of t's range, as a fraction of T, at `progress` in [0, 1] of the run."""
    if config.anneal == "step":
        return config.maximum if progress < config.switch_at else config.final
    return config.maximum + (config.final - config.maximum) * ANNEALING[config.anneal](progress)


def sample_times(batch: int, config: TimeConfig, progress: float, length: int, generator: torch.Generator) -> Tensor:
    """t ~ U(minimum, upper) x T as integers (B,)."""
    low, high = config.minimum * length, max(upper_bound(config, progress), config.minimum) * length
    t = low + (high - low) * torch.rand(batch, generator=generator)
    return t.long().clamp(0, length - 1)


def weight(name: str, alpha_bar: Tensor) -> Tensor:
    """w(t) (B,) by its name in WEIGHTS."""
    return WEIGHTS[name](alpha_bar)
