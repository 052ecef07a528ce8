"""Training loop of all Toybox models, which resumes from a checkpoint.

A step depends on the weights and on its number alone, so that a training that was killed and started again ends with
the same weights as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core import checkpoint


@dataclass
class Training:
    """A model with everything that trains it.

    Attributes:
        model: Model to train.
        optimizer: Its optimizer.
        loss: Function that returns the loss of a step, whose random numbers depend on the step alone.
        rate: Function that returns the learning rate of a step.
        clip: Largest norm of the gradient.
        average: Copy of the model that holds the exponential moving average of its weights.
        ema: Decay of that average.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    rate: Callable[[int], float]
    clip: float = 1.0
    average: nn.Module | None = None
    ema: float = 0.999

    def step(self, step: int) -> Float[Tensor, ""]:
        """Take one optimizer step.

        Args:
            step: Number of the step, from 0.

        Returns:
            Loss before the step.
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
            # A smaller decay at first, so that the average of a short training does not hold its initial weights.
            decay = min(self.ema, (1 + step) / (10 + step))
            averaged: list[Tensor] = list(self.average.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averaged, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        return loss.detach()

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint.

        Args:
            path: File to write.
            step: Number of steps done.
        """
        state = {"step": step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        checkpoint.save(path, state)

    def load(self, path: Path) -> int:
        """Read a checkpoint.

        Args:
            path: File to read.

        Returns:
            Number of steps done.
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
) -> None:
    """Train a model, from its checkpoint if there is one.

    Args:
        training: Model to train.
        steps: Number of steps in total.
        state: Checkpoint to resume from and to write.
        observe: Callback that receives the number of steps done and their metrics.
        evaluate: Function that returns further metrics after a number of steps.
        observe_every: Steps between two calls of `observe`, with the mean loss of these steps.
        evaluate_every: Steps between two calls of `evaluate`, which is also called at the end.
        checkpoint_every: Steps between two checkpoints; one is also written at the end.
    """
    done = training.load(state) if state.exists() else 0
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
        if done % checkpoint_every == 0 or last:
            training.save(state, done)


def warm_up_and_fall(peak: float, steps: int, warmup: int = 100, hold: float = 0.0) -> Callable[[int], float]:
    """Return a schedule in which the learning rate rises linearly, stays constant and falls linearly to zero.

    Args:
        peak: Constant rate in between.
        steps: Number of steps in total.
        warmup: Steps in which it rises.
        hold: Fraction of the steps after which it falls, unless the warmup is longer.

    Returns:
        Function from the step to its learning rate.
    """

    def rate(step: int) -> float:
        begin = max(warmup, hold * steps)
        return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(steps - begin, 1)))

    return rate
