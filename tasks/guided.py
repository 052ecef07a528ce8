"""What the optimised stages share: the prior, the guidance, and what they show while they run."""

from collections.abc import Callable

import torch
from torch import nn

from prolific_core import cameras, memory, optimise
from prolific_core.cameras import Cameras
from prolific_core.config import GuidanceConfig, StageConfig
from prolific_core.guidance import base
from prolific_core.guidance.score_network.gain import ScoreGainMonitor
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from tasks.runtime.stage import Stage

Show = Callable[[nn.Module, Cameras, int], torch.Tensor]  # -> (B, 3, H, W)
Strip = Callable[[nn.Module], torch.Tensor]  # a particle's picture (3, H, W)


def distil(stage: Stage, config: StageConfig, problem: optimise.DistillationProblem, strip: Strip) -> None:
    """Optimise the problem's particles by the stage's guidance, showing a strip of each on the way.

    Steps are per particle: n particles take n times as many. Metrics how the time was spent (as
    records, not results).
    """
    seed = stage.prompt.seed
    prior = LatentDiffusion.load(**stage.config.prior.model_dump(), device=stage.device)
    guidance = base.build_guidance(
        prior, _guidance(stage, config), stage.prompt.text, generator=generator(seed, stage.name, "score model")
    )
    config = config.model_copy(update={"steps": config.steps * len(problem.particles)})
    side = max(side for _, side in config.resolution)
    amounts = memory.estimate(
        guidance, problem.particles, views=config.views, side=side, pixel_bytes=problem.pixel_bytes
    )
    stage.note(f"expects about {memory.shown(amounts)} on {stage.device.type}")
    watch = ScoreGainMonitor(config.steps)

    def observe(step: int, metrics: dict) -> None:
        stage.progress(step, config.steps, **metrics)
        if warning := watch.see(step, metrics):
            stage.note(warning)

    clock = optimise.optimise(
        problem,
        guidance,
        config,
        stage.config.logging,
        seed=seed,
        name=stage.name,
        state_file=stage.checkpoint / "state.safetensors",
        observe=observe,
        preview=lambda step: stage.picture("views", pictures(problem.particles, strip), step),
    )
    stage.fractions(clock.fractions())


def _guidance(stage: Stage, config: StageConfig) -> GuidanceConfig:
    """The stage's; without view words in a 360-degree scene, which has no front that cameras look at."""
    if stage.config.initialise.field.scene == "scene":
        return config.guidance.model_copy(update={"view_prompts": False})
    return config.guidance


@torch.no_grad()
def pictures(particles: list[nn.Module], strip: Strip) -> torch.Tensor:
    """The particles' strips, one below another (3, H, W)."""
    return torch.cat([strip(particle) for particle in particles], dim=-2)


def picture_side(config: StageConfig) -> int:
    """Of previews, in pixels: the training renders', within reason."""
    return max(64, min(256, max(side for _, side in config.resolution)))


def four_views(show: Show, config: StageConfig) -> Strip:
    """Four of `show`'s views side by side, from the middle of the stage's camera ranges."""
    middle = {key: sum(getattr(config.cameras, key)) / 2 for key in ("distance", "fov")}
    views = cameras.orbit(4, elevation=20, **middle)
    return lambda particle: torch.cat(list(show(particle, views, picture_side(config))), dim=-1)
