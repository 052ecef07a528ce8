"""Deterministic steps along the trajectories of DDIM in both directions (arXiv 2010.02502, eq. 12)."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from prolific_core.prior.noise_schedule import Latents, NoiseSchedule, Times


def step(schedule: NoiseSchedule, noisy: Latents, eps: Latents, now: Times, then: Times) -> Latents:
    """Move noisy latents from one time to another, which may be earlier or later.

    Args:
        schedule: The noise schedule.
        noisy: Noisy latents at `now`.
        eps: Noise that is predicted for them.
        now: Time steps of the latents.
        then: Time steps of the result.

    Returns:
        Noisy latents at `then`, alpha_then x_0 + sigma_then eps with x_0 = (x_now - sigma_now eps) / alpha_now.
    """
    alpha, sigma = schedule.coefficients(now)
    return schedule.add_noise((noisy - sigma * eps) / alpha, eps, then)


def invert(
    schedule: NoiseSchedule,
    latents: Latents,
    until: Times,
    stride: int,
    predict: Callable[[Latents, Times, Int[Tensor, " rows"]], Latents],
) -> Latents:
    """Follow the trajectory from time 0 to later times (DDIM inversion).

    Args:
        schedule: The noise schedule.
        latents: Latents at time step 0.
        until: Time step at which each row ends.
        stride: Time steps between two evaluations; the last step of a row is shorter.
        predict: Function of noisy latents, their time steps and their row numbers that returns the predicted noise.
            It receives only the rows that have not reached their end.

    Returns:
        Noisy latents at `until`.
    """
    now, noisy = torch.zeros_like(until), latents.clone()
    while len(rows := (now < until).nonzero()[:, 0]):
        then = torch.minimum(now + stride, until)
        eps = predict(noisy[rows], now[rows], rows)
        noisy[rows] = step(schedule, noisy[rows], eps, now[rows], then[rows])
        now = then
    return noisy
