"""Resumable training loop for all Toybox models.

A step depends only on the training state and the step number, so an interrupted and resumed run gives the same weights
as an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core import checkpoint
from prolific_core.errors import InputError


@dataclass
class Training:
    """Model with its optimizer, loss and learning rate schedule.

    Attributes:
        model: Model to train.
        optimizer: Optimizer of the model's parameters.
        loss: Function that returns the loss of a step; its random numbers must depend only on the step.
        rate: Function that returns the learning rate of a step.
        clip: Maximum norm of the gradient.
        average: Copy of the model with the average of its weights over the steps so far, or None to disable averaging.
        power: Exponent of the average, in which step t has a weight proportional to t^power. The larger the exponent,
            the shorter the average: it covers about the last 1 / (power + 1) of the steps (Karras et al., arXiv
            2312.02696, section 3.1). Unlike an average of fixed length, it suits a run of any length.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    rate: Callable[[int], float]
    clip: float = 1.0
    average: nn.Module | None = None
    power: float = 7.0

    def step(self, step: int) -> Float[Tensor, ""]:
        """Take one optimizer step.

        Args:
            step: Number of the step, starting from 0.

        Returns:
            The loss before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        loss = self.loss(step)
        self.optimizer.zero_grad()
        loss.backward()
        trained = self.optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(trained, self.clip, foreach=True)
        self.optimizer.step()
        if self.average is not None:
            decay = (step / (step + 1)) ** (self.power + 1)
            averaged: list[Tensor] = list(self.average.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            with torch.no_grad():
                torch._foreach_lerp_(averaged, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        return loss.detach()

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint.

        Args:
            path: File to write.
            step: Number of completed steps.
        """
        state = {"step": step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        checkpoint.save(path, state)

    def load(self, path: Path) -> int:
        """Restore a checkpoint.

        Args:
            path: File to read.

        Returns:
            The number of completed steps.
        """
        state = checkpoint.load(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        return state["step"]


def run(
    training: Training,
    *,
    steps: int,
    state: Path,
    observe: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    evaluate: Callable[[int], dict[str, float]] = lambda step: {},
    observe_every: int = 50,
    evaluate_every: int = 500,
    checkpoint_every: int = 250,
    fall: int | None = None,
) -> None:
    """Train a model, resuming from its checkpoint if one exists.

    If `fall` is given, a second checkpoint (`held_checkpoint`) is kept from the step at which the learning rate begins
    to fall. A training with more steps continues from it, with the same result as if it had had these steps from the
    start.

    Args:
        training: Model to train, with its optimizer and loss.
        steps: Total number of steps.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the number of completed steps and the metrics.
        evaluate: Function that receives the number of completed steps and returns additional metrics.
        observe_every: Number of steps between two reports of the mean loss and the learning rate to `observe`.
        evaluate_every: Number of steps between two calls of `evaluate`, which is also called after the last step.
        checkpoint_every: Number of steps between two checkpoints; one is also written after the last step.
        fall: Number of steps at the end of the training over which the learning rate falls, if it is constant before.
    """
    hold, held = steps if fall is None else max(0, steps - fall), held_checkpoint(state)
    done = _resume(training, state, hold)
    losses: list[Tensor] = []
    while done < steps:
        losses.append(training.step(done))
        done += 1
        last = done == steps
        values = {}
        if done % observe_every == 0 or last:
            values = {"loss": float(torch.stack(losses).mean()), "lr": training.rate(done - 1)}
            losses.clear()
        if done % evaluate_every == 0 or last:
            values |= evaluate(done)
        if values:
            observe(done, values)
        if fall is not None and done == hold:
            training.save(held, done)
        if done % checkpoint_every == 0 or last:
            training.save(state, done)


def _resume(training: Training, state: Path, hold: int) -> int:
    """Restore the latest checkpoint whose steps are part of a training that is at the full rate until step `hold`.

    Returns:
        The number of completed steps.

    Raises:
        InputError: If more steps than `hold` were done at the full rate.
    """
    held, done = held_checkpoint(state), training.load(state) if state.exists() else 0
    at_full_rate = checkpoint.load(held)["step"] if held.exists() else done
    if at_full_rate > hold:
        raise InputError(
            f"{at_full_rate} steps at the full learning rate are done, so the rate cannot fall from step {hold}; "
            "raise `steps`, or delete the checkpoint to begin again"
        )
    if held.exists() and at_full_rate < hold:  # The rate fell too early for this number of steps.
        held.replace(state)
        done = training.load(state)
    return done


def held_checkpoint(state: Path) -> Path:
    """Return the path of the checkpoint from the step at which the learning rate begins to fall.

    Args:
        state: Path of the latest checkpoint.

    Returns:
        A path in the same folder.
    """
    return state.with_name(f"held-{state.name}")


def hold_and_fall(peak: float, steps: int, warmup: int, fall: int) -> Callable[[int], float]:
    """Return a learning rate schedule with a linear warmup, a constant phase and a linear decay to zero.

    Unlike in `warm_up_and_fall`, the rate before the decay does not depend on the number of steps.

    Args:
        peak: Learning rate after the warmup.
        steps: Total number of steps.
        warmup: Number of steps over which the learning rate rises.
        fall: Number of steps over which the learning rate falls.

    Returns:
        A function that maps a step to its learning rate.
    """
    return lambda step: peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / fall))


def warm_up_and_fall(peak: float, steps: int, warmup: int = 100, hold: float = 0.0) -> Callable[[int], float]:
    """Return a learning rate schedule with a linear warmup, a constant phase and a linear decay to zero.

    Args:
        peak: Learning rate after the warmup.
        steps: Total number of steps.
        warmup: Number of steps over which the learning rate rises.
        hold: Fraction of the steps after which the learning rate starts to decay, unless the warmup is longer.

    Returns:
        A function that maps a step to its learning rate.
    """

    def rate(step: int) -> float:
        begin = max(warmup, hold * steps)
        return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(steps - begin, 1)))

    return rate
