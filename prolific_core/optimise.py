"""Optimisation loop of score distillation, which is shared by all stages.

All random numbers are drawn from generators seeded by (seed, name, step, purpose), and checkpoints hold all mutable
state. A run that is interrupted and resumed therefore produces the same bytes as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prolific_core import cameras as camera_sampling
from prolific_core import checkpoint
from prolific_core.config import LoggingConfig, StageConfig
from prolific_core.errors import ProlificError
from prolific_core.guidance.base import Guidance
from prolific_core.nonfinite import NonFiniteSteps, is_finite, largest_gradient
from prolific_core.scenes.base import Scene
from prolific_core.seeding import generator

EVENTS_AT_ONCE = 500  # events of a GPU that are read together
MEASURE_SCORE_EVERY = 10  # steps between measurements of score_gain, which cost a forward pass of the frozen base


def gpu_event() -> Any:
    """Return a point in time on the GPU's current stream."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@dataclass
class StageTimer:
    """Timer for the parts of the training loop.

    The host starts work on a GPU long before the GPU does it. On a GPU, the times are therefore measured by events on
    its stream, which are read in groups, because reading one makes the host wait.

    Attributes:
        seconds: Accumulated time in seconds by name of the part.
        on_gpu: Whether the work runs on a GPU.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    on_gpu: bool = False
    _last: Any = None
    _unread: list[tuple[str, Any, Any]] = field(default_factory=list)

    def start(self) -> None:
        """Start the first part of a step without counting the time since the last part."""
        self._last = self._now()

    def lap(self, name: str) -> None:
        """Add the time since the last call of `start` or `lap` to the part `name`."""
        now = self._now()
        self._unread.append((name, self._last, now))
        self._last = now
        if len(self._unread) >= (EVENTS_AT_ONCE if self.on_gpu else 1):
            self._read()

    def _now(self) -> Any:
        return gpu_event() if self.on_gpu else time.perf_counter()

    def _read(self) -> None:
        if self.on_gpu and self._unread:
            self._unread[-1][2].synchronize()
        for name, start, end in self._unread:
            elapsed = start.elapsed_time(end) / 1000 if self.on_gpu else end - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        self._unread.clear()

    def fractions(self) -> dict[str, float]:
        """Return each part's fraction of the total time."""
        self._read()
        total = sum(self.seconds.values()) or 1.0
        return {name: seconds / total for name, seconds in self.seconds.items()}


def resolution_at(schedule: Sequence[tuple[float, int]], progress: float) -> int:
    """Return the height and width in pixels of the training renders at a given progress.

    Args:
        schedule: Pairs (start, side): the fraction of the run from which a side applies, and the side in pixels.
        progress: Fraction of the run that is done, in [0, 1].
    """
    begun = [side for start, side in sorted(schedule) if start <= progress]
    return begun[-1] if begun else min(schedule)[1]


def rate_at(final: float, progress: float) -> float:
    """Return the learning rate factor, which follows half a cosine from 1 to `final` over the run.

    Args:
        final: The factor at the end of the run.
        progress: Fraction of the run that is done, in [0, 1].
    """
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def distil(
    scenes: Sequence[Scene],
    guidance: Guidance,
    config: StageConfig,
    logging: LoggingConfig | None = None,
    *,
    seed: int = 0,
    name: str = "distil",
    state_file: Path | None = None,
    resume: Callable[[int], object] | None = None,
    observe: Callable[[int, dict[str, Any]], object] | None = None,
    preview: Callable[[int], object] | None = None,
    preview_at: Collection[int] = (),
) -> StageTimer:
    """Train scenes in place with the guidance gradient on their renders.

    Each step trains one randomly chosen scene.

    Args:
        scenes: The particles.
        guidance: Source of the gradient; see `build_guidance`.
        config: Number of steps, camera distribution, and schedules for resolution and learning rate.
        logging: Intervals of checkpoints and previews.
        seed: Seed of all random draws.
        name: Name of the run, which is part of every seed and of error messages.
        state_file: The checkpoint file. The run resumes from it if it exists. If None, no checkpoints are saved.
        resume: Function called with the number of finished steps if the run resumes from its checkpoint.
        observe: Function called after every step with the number of finished steps and the step's metrics.
        preview: Function called every `logging.preview_every` steps and at the end with the number of finished steps.
        preview_at: Further numbers of finished steps at which `preview` is called.

    Returns:
        The time spent in each part of the loop.

    Raises:
        ProlificError: The losses or gradients of a particle are not finite in several steps in a row, or its parameters
            are not finite.
    """
    logging = logging or LoggingConfig()
    advice = "lower the learning rates or the guidance scale, or set prior.dtype to bfloat16 or float32"
    skipped = [NonFiniteSteps(f"{name}: particle {index}", advice) for index in range(len(scenes))]
    fused = guidance.prior.device.type == "cuda" or None  # one kernel; on the CPU, torch's default keeps its bytes
    optimizers = [
        torch.optim.Adam(scene.parameter_groups(), betas=(0.9, 0.99), eps=1e-15, fused=fused) for scene in scenes
    ]
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    first = _load(state_file, scenes, optimizers, guidance, skipped) if state_file and state_file.exists() else 0
    if resume and first:
        resume(first)
    timer = StageTimer(on_gpu=guidance.prior.device.type == "cuda")
    for step in range(first, config.steps):

        def draw(purpose: str, step: int = step) -> torch.Generator:
            return generator(seed, name, step, purpose)

        progress = step / config.steps
        index = int(torch.randint(len(scenes), (1,), generator=draw("particle")))
        scene, optimizer = scenes[index], optimizers[index]
        timer.start()
        scene.progress = progress
        scene.before_step(step, draw("occupancy"))
        cameras = camera_sampling.sample(config.views, config.cameras, draw("cameras")).to(guidance.prior.device)
        render = scene.render(cameras, resolution_at(config.resolution, progress), draw("render"))
        timer.lap("render")
        latents = render.rgb if scene.renders_latents else guidance.prior.encode(render.rgb)
        timer.lap("encode")
        guidance.observe(index, render, cameras)
        distillation = guidance.loss(latents, cameras, progress, draw("guidance"))
        timer.lap("guidance")
        losses = scene.losses(render, progress)
        total = distillation + sum(losses.values())
        for group, rate in zip(optimizer.param_groups, rates[index], strict=True):
            group["lr"] = rate * rate_at(config.learning_rate_final, progress)
        total.backward()
        largest = largest_gradient(parameter for group in optimizer.param_groups for parameter in group["params"])
        if not skipped[index].must_skip(torch.stack([total.detach(), largest]).tolist()):
            optimizer.step()
        else:
            _check_scene(scene, f"{name}: particle {index}", step + 1, advice)
        optimizer.zero_grad(set_to_none=True)  # free the gradients of this particle
        timer.lap("backward")
        measure = step == 0 or (step + 1) % MEASURE_SCORE_EVERY == 0
        metrics = guidance.train_score_network(latents, cameras, draw, measure=measure)
        timer.lap("score model")
        metrics |= {"loss": total.detach(), "opacity": render.opacity.detach().mean()}
        metrics |= {f"loss_{key}": value.detach() for key, value in losses.items()}
        if count := sum(counter.total for counter in skipped):
            metrics["skipped_steps"] = count
        done = step + 1
        if observe:
            observe(done, metrics)
        timer.lap("logging")
        if preview and (done % logging.preview_every == 0 or done == config.steps or done in preview_at):
            preview(done)
            timer.lap("previews")
        # A run that resumes does not repeat the step of its checkpoint, so the step must have been previewed.
        if state_file and done % logging.checkpoint_every == 0 and done < config.steps:
            _save(state_file, done, scenes, optimizers, guidance, skipped)
            timer.lap("checkpoints")
    for index, scene in enumerate(scenes):
        _check_scene(scene, f"{name}: particle {index}", config.steps, advice)
    return timer


def _check_scene(scene: Scene, subject: str, step: int, advice: str) -> None:
    """Raise a ProlificError if the state of a scene is not finite, from which it cannot recover."""
    if not is_finite(scene.state_dict()):
        raise ProlificError(f"{subject} holds values that are not a number at step {step}; {advice}")


def _save(
    path: Path,
    step: int,
    scenes: Sequence[Scene],
    optimizers: list,
    guidance: Guidance,
    skipped: Sequence[NonFiniteSteps],
) -> None:
    """Save all state that changes during training, which must be finite."""
    state = {
        "step": step,
        "scenes": [scene.state_dict() for scene in scenes],
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "guidance": guidance.state_dict(),
        "skipped": [counter.total for counter in skipped],
    }
    if not is_finite(state):
        raise ProlificError(
            f"{path.name}: the state of step {step} holds values that are not a number and is not saved; lower the "
            "learning rates, then run the same command again"
        )
    checkpoint.save(path, state)


def _load(
    path: Path, scenes: Sequence[Scene], optimizers: list, guidance: Guidance, skipped: Sequence[NonFiniteSteps]
) -> int:
    """Restore the state written by `_save` and return the number of finished steps."""
    state = checkpoint.load(path)
    for part, values in zip([*scenes, *optimizers], state["scenes"] + state["optimizers"], strict=True):
        part.load_state_dict(values)
    guidance.load_state_dict(state["guidance"])
    for counter, total in zip(skipped, state["skipped"], strict=True):
        counter.total = total
    return state["step"]
