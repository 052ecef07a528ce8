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
from prolific_core.toybox.training.muon import restore


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

    def save(self, path: Path, step: int, schedule: tuple[int, int]) -> None:
        """Write a checkpoint.

        Args:
            path: File to write.
            step: Number of completed steps.
            schedule: Total number of steps, and the step at which the learning rate begins to decay.
        """
        state = {
            "step": step,
            "schedule": list(schedule),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        checkpoint.save(path, state)

    def load(self, state: dict) -> int:
        """Restore a checkpoint.

        Args:
            state: Contents of the checkpoint.

        Returns:
            The number of completed steps.
        """
        self.model.load_state_dict(state["model"])
        restore(self.optimizer, state["optimizer"])
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
    decay: int | None = None,
) -> None:
    """Train a model, resuming from its checkpoint if one exists.

    If `decay` is given, a second checkpoint (`stable_checkpoint`) is kept from the step at which the learning rate
    begins to decay. A training with more steps continues from it and gives the same result as a single run of that
    length.

    Args:
        training: Model to train, with its optimizer and loss.
        steps: Total number of steps.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the number of completed steps and the metrics.
        evaluate: Function that receives the number of completed steps and returns additional metrics.
        observe_every: Number of steps between two reports of the mean loss and the learning rate to `observe`.
        evaluate_every: Number of steps between two calls of `evaluate`, which is also called after the last step.
        checkpoint_every: Number of steps between two checkpoints; one is also written after the last step.
        decay: Number of final steps over which the learning rate decays, if it does not depend on `steps` before them;
            None if the whole schedule depends on `steps`.

    Raises:
        InputError: If more steps than `steps` - `decay` were done at the full learning rate.
    """
    schedule = steps, steps if decay is None else max(0, steps - decay)
    done = _resume(training, state, schedule)
    losses: list[Tensor] = []
    while done < steps:
        if decay is not None and done == schedule[1]:
            training.save(stable_checkpoint(state), done, schedule)
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
            training.save(state, done, schedule)


def _resume(training: Training, state: Path, schedule: tuple[int, int]) -> int:
    """Restore the latest checkpoint that a single run with the same schedule would also reach.

    Returns:
        The number of completed steps.

    Raises:
        InputError: If there are checkpoints, but none that such a run would reach.
    """
    found = [checkpoint.load(path) for path in (state, stable_checkpoint(state)) if path.exists()]
    usable = [
        one
        for one in found
        if one["schedule"] == list(schedule) or one["step"] <= min(schedule[1], one["schedule"][1])  # at the full rate
    ]
    if found and not usable:
        full = min(one["step"] for one in found)
        raise InputError(
            f"{state} has {full} steps at the full learning rate, which would now decay from step {schedule[1]}; "
            f"set steps to at least {full + schedule[0] - schedule[1]}, or delete the folder of the checkpoint"
        )
    return training.load(max(usable, key=lambda one: one["step"])) if usable else 0


def stable_checkpoint(state: Path) -> Path:
    """Return the path of the checkpoint from the step at which the learning rate begins to decay.

    Args:
        state: Path of the latest checkpoint.

    Returns:
        A path in the same folder.
    """
    return state.with_name(f"stable-{state.name}")


def warm_up_stable_decay(peak: float, steps: int, warmup: int, decay: int) -> Callable[[int], float]:
    """Return a learning rate schedule with a linear warmup, a constant phase and a linear decay to zero.

    Before the decay, the learning rate does not depend on the number of steps (Hu et al., arXiv 2404.06395, section 4).

    Args:
        peak: Learning rate after the warmup.
        steps: Total number of steps.
        warmup: Number of steps over which the learning rate rises.
        decay: Number of steps over which the learning rate decays.

    Returns:
        A function that maps a step to its learning rate.
    """
    return lambda step: peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / decay))


def warm_up_and_decay(peak: float, steps: int, warmup: int = 100) -> Callable[[int], float]:
    """Return a learning rate schedule with a linear warmup and a linear decay to zero.

    Args:
        peak: Learning rate after the warmup.
        steps: Total number of steps.
        warmup: Number of steps over which the learning rate rises.

    Returns:
        A function that maps a step to its learning rate.
    """
    return lambda step: peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(steps - warmup, 1)))
