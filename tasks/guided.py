"""Distillation as the optimised stages run it: prior, guidance, memory estimate and previews."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prolific_core import cameras, memory
from prolific_core.config import GuidanceConfig, StageConfig
from prolific_core.guidance import base
from prolific_core.guidance.score_network.gain import ScoreGainMonitor
from prolific_core.optimise import distil
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.scenes.base import Scene
from prolific_core.seeding import generator
from tasks.runtime.stage import Stage

Strip = Callable[[Any], Tensor]  # a scene's preview (3, H, W)


def distil_stage(
    stage: Stage,
    config: StageConfig,
    scenes: Sequence[Scene],
    strip: Strip | None = None,
    pixel_bytes: float = memory.SURFACE_PIXEL_BYTES,
) -> None:
    """Train the scenes by the stage's guidance, with previews, and record how the time was spent.

    The configured number of steps is per particle, so n particles take n times as many.
    """
    seed = stage.prompt.seed
    prior = LatentDiffusion.load(**stage.config.prior.model_dump(), device=stage.device)
    guidance = base.build_guidance(
        prior, _guidance(stage, config), stage.prompt.text, generator=generator(seed, stage.name, "score model")
    )
    config = config.model_copy(update={"steps": config.steps * len(scenes)})
    side = max(side for _, side in config.resolution)
    amounts = memory.estimate(guidance, scenes, views=config.views, side=side, pixel_bytes=pixel_bytes)
    stage.note(f"expects about {memory.format_total(amounts)} on {stage.device.type}")
    monitor = ScoreGainMonitor(config.steps)
    strip = strip or four_views(stage, config)

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
        state_file=stage.checkpoint / "state.safetensors",
        observe=observe,
        preview=lambda step: stage.image("views", preview(scenes, strip), step),
    )
    stage.fractions(timer.fractions())


def _guidance(stage: Stage, config: StageConfig) -> GuidanceConfig:
    """Return the stage's guidance, without view-dependent prompting in a 360-degree scene, which has no front."""
    if stage.config.initialise.field.scene == "scene":
        return config.guidance.model_copy(update={"view_prompts": False})
    return config.guidance


@torch.no_grad()
def preview(scenes: Sequence[Scene], strip: Strip) -> Tensor:
    """Return the strips of all scenes, one below another, as one image (3, H, W)."""
    return torch.cat([strip(scene) for scene in scenes], dim=-2)


def preview_side(config: StageConfig) -> int:
    """Return the side of a preview in pixels: that of the largest training render, from 64 to 256."""
    return max(64, min(256, max(side for _, side in config.resolution)))


def four_views(
    stage: Stage,
    config: StageConfig,
    show: Callable[[Any, cameras.Cameras, int], Tensor] = lambda scene, views, side: scene.render(views, side).rgb,
) -> Strip:
    """Show four views (B, 3, H, W) of a scene side by side, from the middle of the configured camera ranges."""
    middle = {key: sum(getattr(config.cameras, key)) / 2 for key in ("distance", "fov")}
    views = cameras.orbit(4, elevation=20, **middle).to(stage.device)
    return lambda scene: torch.cat(list(show(scene, views, preview_side(config))), dim=-1)
