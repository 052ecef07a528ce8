"""The loop every model of the Toybox is trained by: resumable to the step.

What a step does depends on the checkpoint and its number alone, so a run that
was killed and started again ends in the same weights as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prolific_core import checkpoint


@dataclass
class Training:
    """A model in training.

    loss(step) -> its loss, drawn from (seed, step) only; rate(step) the learning
    rate. `average`, where there is one, follows the weights with decay `ema`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    rate: Callable[[int], float]
    clip: float = 1.0
    average: nn.Module | None = None
    ema: float = 0.999

    def step(self, step: int) -> Tensor:
        """One optimiser step; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        loss = self.loss(step)
        self.optimizer.zero_grad()
        loss.backward()
        trained = self.optimizer.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(trained, self.clip, foreach=True)
        self.optimizer.step()
        if self.average is not None:
            # A short run's average must not remember the beginning.
            decay = min(self.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return loss.detach()

    def save(self, path: Path, step: int) -> None:
        state = {"step": step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        checkpoint.save(path, state)

    def load(self, path: Path) -> int:
        """Go on from a checkpoint; the number of steps done."""
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
    """Train to `steps`, from the checkpoint `state` where there is one; it is written at the end too.

    observe(step, values) is told the mean loss every `observe_every` steps, with
    what evaluate(step) measures every `evaluate_every` and at the end.
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
    """A learning rate that rises linearly, stays for the share `hold` of the steps, and falls linearly to zero."""

    def rate(step: int) -> float:
        begin = max(warmup, hold * steps)
        return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(steps - begin, 1)))

    return rate
