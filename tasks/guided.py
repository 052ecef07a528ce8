"""Distillation with a prior and previews, shared by the stages `nerf`, `geometry` and `texture`."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolific_core import cameras, checkpoint, memory
from prolific_core.config import GuidanceConfig, StageConfig
from prolific_core.errors import InputError
from prolific_core.guidance import base
from prolific_core.guidance.score_network.gain import ScoreGainMonitor
from prolific_core.optimise import distil
from prolific_core.prior.kinds import load_prior
from prolific_core.scenes.base import Scene
from prolific_core.seeding import generator
from tasks.runtime.stage import Stage

Strip = Callable[[Any], Tensor]  # renders the preview (3, H, W) of a scene


def distil_stage(
    stage: Stage,
    config: StageConfig,
    scenes: Sequence[Scene],
    strip: Strip | None = None,
    pixel_bytes: float = memory.SURFACE_PIXEL_BYTES,
) -> None:
    """Optimise the scenes with the stage's guidance, save previews and record the time spent on each activity.

    The configured number of steps is per particle, so n particles need n times as many steps in total. With 0 steps,
    the scenes stay as they are, and the prior is not loaded.
    """
    strip = strip or four_views(stage, config)
    if config.steps == 0:
        stage.note(f"{stage.name}.steps is 0: the result is passed on without guidance")
        stage.image("views", preview(scenes, strip), 0, keep=True)
        return
    seed = stage.prompt.seed
    stage.status("loading the prior")
    prior = load_prior(**stage.config.prior.model_dump(), device=stage.device)
    check_views(config, stage.name, prior.views_together)
    guidance = base.build_guidance(
        prior, _guidance(stage, config), stage.prompt.text, generator=generator(seed, stage.name, "score model")
    )
    config = config.model_copy(update={"steps": config.steps * len(scenes)})
    side = max(side for _, side in config.resolution)
    amounts = memory.estimate(guidance, scenes, views=config.views, side=side, pixel_bytes=pixel_bytes)
    stage.note(f"needs about {memory.format_total(amounts)} of memory ({stage.device.type})")
    if line := memory.shortage(amounts, stage.device, stage.name):
        stage.note(line)
    monitor = ScoreGainMonitor(config.steps)
    kept = [config.steps * third // 3 for third in (1, 2, 3)]  # steps whose previews are part of the output

    def observe(step: int, metrics: dict) -> None:
        stage.progress(step, config.steps, **metrics)
        if warning := monitor.see(step, metrics):
            stage.note(warning)

    timer = distil(
        scenes,
        guidance,
        config,
        stage.config.logging,
        seed=seed,
        name=stage.name,
        state_file=state_file(stage),
        resume=lambda step: stage.note(f"resuming from step {step} of {config.steps}"),
        observe=observe,
        preview=lambda step: stage.image("views", preview(scenes, strip), step, keep=step in kept),
        preview_at=kept,
    )
    stage.fractions(timer.fractions())


def check_views(config: StageConfig, name: str, together: int) -> None:
    """Raise an InputError if the views of a step do not fit a prior that denoises `together` views of an orbit."""
    if config.views % together or (together > 1 and not config.cameras.orbit):
        raise InputError(
            f"{name}.cameras.orbit must be true for the multi-view model in prior.path, and {name}.views must be "
            f"{together} or a multiple"
        )


def state_file(stage: Stage) -> Path:
    """Return the path of a stage's checkpoint, which may not exist.

    A damaged checkpoint is deleted with a note, because the stage can only start again.
    """
    path = stage.checkpoint / "state.safetensors"
    if path.exists() and not checkpoint.is_intact(path):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        stage.note(f"removed the damaged checkpoint {path.relative_to(stage.root)}; {stage.title} starts again")
    return path


def _guidance(stage: Stage, config: StageConfig) -> GuidanceConfig:
    """Return the guidance config of a stage.

    View-dependent prompting is disabled for 360-degree scenes, because they have no front.
    """
    if stage.config.initialise.field.scene == "scene":
        return config.guidance.model_copy(update={"view_prompts": False})
    return config.guidance


@torch.no_grad()
def preview(scenes: Sequence[Scene], strip: Strip) -> Tensor:
    """Stack the previews of all scenes vertically into one image (3, H, W)."""
    return torch.cat([strip(scene) for scene in scenes], dim=-2)


def preview_side(config: StageConfig) -> int:
    """Return the side length of a preview in pixels.

    It is the largest training resolution, clamped to [64, 256].
    """
    return max(64, min(256, max(side for _, side in config.resolution)))


def four_views(
    stage: Stage,
    config: StageConfig,
    show: Callable[[Any, cameras.Cameras, int], Tensor] = lambda scene, views, side: scene.render(views, side).rgb,
) -> Strip:
    """Return a function that renders four views of a scene and places them side by side.

    The cameras use the midpoints of the configured ranges of distance and field of view. `show` renders a scene as
    images (B, 3, H, W).
    """
    middle = {key: sum(getattr(config.cameras, key)) / 2 for key in ("distance", "fov")}
    views = cameras.orbit(4, elevation=20, **middle).to(stage.device)
    return lambda scene: torch.cat(list(show(scene, views, preview_side(config))), dim=-1)
