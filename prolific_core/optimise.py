"""The one loop: draw a particle, draw cameras, render, ask the guidance, step, log, checkpoint.

The stages differ only in scene, guidance and numbers. Every random draw comes from a generator named
by (seed, stage, step, purpose), and a checkpoint holds everything that changes, so a run that was
killed and resumed makes the same bytes as one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from prolific_core import cameras as camera_sampling
from prolific_core import checkpoint
from prolific_core.cameras import Cameras
from prolific_core.config import LoggingConfig, StageConfig
from prolific_core.errors import ProlificError
from prolific_core.guidance.base import Guidance
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.render.result import Render
from prolific_core.seeding import generator

MEASURE_SCORE_EVERY = 10  # steps; it costs a forward pass of the frozen prior


@dataclass
class DistillationProblem:
    """What a stage optimises.

    render(particle, cameras, resolution, generator) -> Render of training views;
    losses(particle, render, progress) -> weighted regularisers by name;
    before_step(particle, step, generator) e.g. refreshes an occupancy grid;
    encode(prior, render) -> latents (B, C, h, w) that the guidance is asked about;
    pixel_bytes: what a render keeps per pixel for its backward pass, roughly (for `memory.estimate`).
    """

    particles: list[nn.Module]
    parameter_groups: Callable[[nn.Module], list[dict]]
    render: Callable[[nn.Module, Cameras, int, torch.Generator], Render]
    losses: Callable[[nn.Module, Render, float], dict[str, Tensor]] = lambda particle, render, progress: {}
    before_step: Callable[[nn.Module, int, torch.Generator], None] = lambda particle, step, generator: None
    encode: Callable[[LatentDiffusion, Render], Tensor] = lambda prior, render: prior.encode(render.rgb)
    pixel_bytes: float = 256.0  # of a surface: position, normal, coverage, colour


@dataclass
class StageTimer:
    """Seconds spent per part of the loop, for the share printed after a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def fractions(self) -> dict[str, float]:
        total = sum(self.seconds.values()) or 1.0
        return {name: seconds / total for name, seconds in self.seconds.items()}


def resolution_at(schedule: list[tuple[float, int]], progress: float) -> int:
    """The side of the training render at `progress` in [0, 1], from (fraction from which, side) pairs."""
    begun = [side for start, side in sorted(schedule) if start <= progress]
    return begun[-1] if begun else min(schedule)[1]


def rate_at(final: float, progress: float) -> float:
    """The share of the learning rates at `progress` in [0, 1]: from 1 to `final`, as half a cosine."""
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def optimise(
    problem: DistillationProblem,
    guidance: Guidance,
    config: StageConfig,
    logging: LoggingConfig,
    *,
    seed: int,
    name: str,
    state_file: Path,
    observe: Callable[[int, dict[str, float | Tensor]], None],
    preview: Callable[[int], None] | None = None,
) -> StageTimer:
    """Optimise the particles in place for `config.steps` steps, resuming from `state_file` if it exists.

    `observe(step, metrics)` is called after each step, step counted from 1; `preview(step)` after every
    `logging.preview_every` of them and the last. Raises ProlificError when the loss stops being a number.
    """
    optimizers = [
        torch.optim.Adam(problem.parameter_groups(particle), betas=(0.9, 0.99), eps=1e-15)
        for particle in problem.particles
    ]
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    state = _State(problem.particles, optimizers, guidance)
    first = state.load(state_file) if state_file.exists() else 0
    clock = StageTimer()
    for step in range(first, config.steps):

        def draw(purpose: str, step: int = step) -> torch.Generator:
            return generator(seed, name, step, purpose)

        progress = step / config.steps
        index = int(torch.randint(len(problem.particles), (1,), generator=draw("particle")))
        particle, optimizer = problem.particles[index], optimizers[index]
        clock.start()
        problem.before_step(particle, step, draw("occupancy"))
        views = camera_sampling.sample(config.views, config.cameras, draw("cameras")).to(guidance.prior.device)
        render = problem.render(particle, views, resolution_at(config.resolution, progress), draw("render"))
        clock.lap("render")
        latents = problem.encode(guidance.prior, render)
        clock.lap("encode")
        distillation = guidance.loss(latents, views, progress, draw("guidance"))
        clock.lap("guidance")
        losses = problem.losses(particle, render, progress)
        total = distillation + sum(losses.values())
        if not torch.isfinite(total):
            raise ProlificError(
                f"{name}: the loss is not a number at step {step + 1}; lower its learning rates or guidance scale"
            )
        for group, rate in zip(optimizer.param_groups, rates[index], strict=True):
            group["lr"] = rate * rate_at(config.learning_rate_final, progress)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # of n particles, one at a time has gradients
        clock.lap("backward")
        measure = step == 0 or (step + 1) % MEASURE_SCORE_EVERY == 0
        metrics = guidance.train_score_network(latents, views, draw, measure=measure)
        clock.lap("score model")
        metrics |= {"loss": total.detach(), "opacity": render.opacity.detach().mean()}
        metrics |= {f"loss_{key}": value.detach() for key, value in losses.items()}
        done = step + 1
        if done % logging.checkpoint_every == 0 and done < config.steps:
            state.save(state_file, done)
            clock.lap("checkpoints")
        observe(done, metrics)
        clock.lap("logging")
        if preview and (done % logging.preview_every == 0 or done == config.steps):
            preview(done)
            clock.lap("previews")
    return clock


class _State:
    """Everything that changes from step to step, and nothing else."""

    def __init__(self, particles: list[nn.Module], optimizers: list, guidance: Guidance):
        self.particles, self.optimizers, self.guidance = particles, optimizers, guidance

    def save(self, path: Path, step: int) -> None:
        checkpoint.save(
            path,
            {
                "step": step,
                "particles": [particle.state_dict() for particle in self.particles],
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "guidance": self.guidance.state_dict(),
            },
        )

    def load(self, path: Path) -> int:
        state = checkpoint.load(path)
        for particle, values in zip(self.particles, state["particles"], strict=True):
            particle.load_state_dict(values)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.guidance.load_state_dict(state["guidance"])
        return state["step"]
