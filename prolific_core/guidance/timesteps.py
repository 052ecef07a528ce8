"""Distribution of the diffusion time t, and the weight w(t) of the gradient."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.config import TimeConfig
from prolific_core.prior.noise_schedule import Times


def _cosine(progress: float) -> float:
    return (1 - math.cos(math.pi * progress)) / 2


#: Functions from the progress of the run to the position of the upper bound, from 0 (`maximum`) to 1 (`final`).
ANNEALING: dict[str, Callable[[float], float]] = {
    "none": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "sqrt": math.sqrt,  # changes quickly at first (HiFA, arXiv 2305.18766)
    "cosine": _cosine,
}

#: Weights w(t) as functions of alpha_bar, for a gradient in terms of eps.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    # sigma^2, as in DreamFusion (arXiv 2209.14988), ProlificDreamer (arXiv 2305.16213) and most implementations.
    "one_minus_alpha_bar": lambda alpha_bar: 1 - alpha_bar,
    # As in score Jacobian chaining (arXiv 2212.00774), rewritten in terms of eps.
    "uniform": torch.ones_like,
    # alpha sigma^2, as in the implementation of Fantasia3D (arXiv 2303.13873; `fantasia3d` in threestudio).
    "alpha_sigma_squared": lambda alpha_bar: alpha_bar.sqrt() * (1 - alpha_bar),
    # The gradient is then a difference of predicted images, as in the implementation of LucidDreamer (2311.11284).
    "sigma_over_alpha": lambda alpha_bar: (1 / alpha_bar - 1).sqrt(),
}


def upper_bound(config: TimeConfig, progress: float) -> float:
    """Return the upper bound of the range of t.

    Args:
        config: The distribution of t.
        progress: Fraction of the run in [0, 1].

    Returns:
        The upper bound as a fraction of the number of time steps.
    """
    if config.anneal == "step":
        return config.maximum if progress < config.switch_at else config.final
    return config.maximum + (config.final - config.maximum) * ANNEALING[config.anneal](progress)


def sample_times(
    batch: int, config: TimeConfig, progress: float, length: int, generator: torch.Generator | None = None
) -> Times:
    """Sample time steps uniformly between the lower and the upper bound.

    Args:
        batch: Number of samples.
        config: The distribution of t.
        progress: Fraction of the run in [0, 1].
        length: Number of time steps of the noise schedule.
        generator: Source of the random numbers, on the CPU. If None, torch's global generator is used.

    Returns:
        Integers from 0 to `length - 1`, on the CPU.
    """
    low, high = config.minimum * length, max(upper_bound(config, progress), config.minimum) * length
    t = low + (high - low) * torch.rand(batch, generator=generator)
    return t.long().clamp(0, length - 1)


def upper_times(batch: int, config: TimeConfig, progress: float, length: int) -> Times:
    """Return the upper bound of the range of t as time steps, for methods whose t decreases over the run.

    Args:
        batch: Number of samples.
        config: The distribution of t.
        progress: Fraction of the run in [0, 1].
        length: Number of time steps of the noise schedule.

    Returns:
        The same integer from 1 to `length - 1` for all samples, on the CPU.
    """
    upper = round(upper_bound(config, progress) * length)
    return torch.full((batch,), min(max(upper, 1), length - 1))


def weight(name: str, alpha_bar: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the weight w(t) of the gradient.

    Args:
        name: A key of `WEIGHTS`.
        alpha_bar: Cumulative product of alpha at t.

    Returns:
        The weights.
    """
    return WEIGHTS[name](alpha_bar)
