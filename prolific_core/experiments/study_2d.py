"""The paper's controlled experiment (2305.16213, sec. 3.2 and fig. 5): the same prior, in 2D, by different methods.

Images are the particles, there is no 3D: what differs from ancestral samples is the method's doing.
A cell is one method on one prompt; its pictures are judged against true renders of the prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prolific_core.config import (
    CameraConfig,
    GuidanceConfig,
    LoggingConfig,
    ScoreConfig,
    StageConfig,
    TimeConfig,
)
from prolific_core.guidance import base
from prolific_core.metrics.diversity import pairwise_distance, saturation
from prolific_core.metrics.fidelity import frechet_distance, kernel_distance
from prolific_core.optimise import DistillationProblem, optimise
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.scenes.image import ImageScene, LatentScene
from prolific_core.seeding import generator

ENOUGH_FOR_FRECHET = 128  # images: twice the features' width


@dataclass(frozen=True)
class Method:
    """A way from a prompt to pictures.

    kind: "ancestral", or an estimator in guidance/; shared: all particles have one score model, else each
    its own; share_pass, interval: as in the configuration of guidance and score model.
    """

    name: str
    kind: str
    scale: float
    shared: bool = True
    share_pass: bool = False
    interval: tuple[float, float] | None = None


METHODS = (
    Method("ancestral 7.5", "ancestral", 7.5),
    Method("ancestral 3", "ancestral", 3.0),  # where `prolific prior check` measures the prior
    Method("sds 100", "sds", 100.0),
    Method("sds 7.5", "sds", 7.5),
    Method("vsd 1", "vsd", 1.0),
    Method("vsd 3", "vsd", 3.0),
    Method("vsd 7.5", "vsd", 7.5),
    Method("vsd 7.5, n = 1", "vsd", 7.5, shared=False),
)
# What saves calls of the networks: run by name only.
SAVINGS = (
    Method("vsd 7.5, shared pass", "vsd", 7.5, share_pass=True),
    Method("vsd 7.5, interval", "vsd", 7.5, interval=(0.15, 0.85)),
)


@dataclass(frozen=True)
class Settings:
    """What decides a cell beside its method, prompt and prior. steps: per particle, or of the sampler.

    pixels: the particles are images, which the guidance sees through the prior's encoder, as those of a
    3D stage are; else latents, so that what is seen is the estimator's doing alone.
    """

    particles: int = 8
    batch: int = 8  # particles of one score model that are stepped together, at most: they come out even
    steps: int = 200
    sampler_steps: int = 50
    learning_rate: float = 0.1  # Adam's, on latents, or on the pixels' logits; it falls to a twentieth
    seed: int = 0
    pixels: bool = False


def stage_config(method: Method, settings: Settings, *, steps: int, batch: int) -> StageConfig:
    """The same for every estimator: view words off, t from U(.02, .98) falling to U(.02, .3)."""
    return StageConfig(
        steps=steps,
        views=batch,
        learning_rate_final=0.05,
        resolution=[(0.0, 64)],
        cameras=CameraConfig(distance=(1.5, 1.5), fov=(45, 45), elevation=(0, 0), uniform_probability=0),
        guidance=GuidanceConfig(
            method=method.kind,
            scale=method.scale,
            interval=method.interval,
            view_prompts=False,
            time=TimeConfig(anneal="sqrt", final=0.3),
            score=ScoreConfig(rank=8, targets="all", learning_rate=1e-3, share_pass=method.share_pass),
        ),
    )


def make(
    prior: LatentDiffusion,
    method: Method,
    prompt: str,
    settings: Settings,
    state: Path,
    progress: Callable[[int, int], None],
) -> Tensor:
    """The pictures (particles, 3, S, S) in [0, 1] of one cell.

    state: a folder for the checkpoints that an interrupted cell goes on from; progress(step, steps).
    """
    if method.kind == "ancestral":
        noise = generator(settings.seed, "study", prompt)
        texts = [prompt] * settings.particles
        return prior.sample(texts, scale=method.scale, steps=settings.sampler_steps, eta=1.0, generator=noise)
    batch = max(k for k in range(1, settings.batch + 1) if settings.particles % k == 0) if method.shared else 1
    scenes = [_scene(prior, settings, k, batch) for k in range(settings.particles // batch)]
    groups = [scenes] if method.shared else [[scene] for scene in scenes]
    done, total = 0, settings.steps * len(scenes)
    for k, group in enumerate(groups):
        config = stage_config(method, settings, steps=settings.steps * len(group), batch=batch)
        guidance = base.build_guidance(
            prior, config.guidance, prompt, generator=generator(settings.seed, "score model", k)
        )
        problem = DistillationProblem(
            particles=group,
            parameter_groups=lambda scene: [{"params": list(scene.parameters()), "lr": settings.learning_rate}],
            render=lambda scene, cameras, resolution, generator: scene.render(len(cameras)),
            encode=DistillationProblem.encode if settings.pixels else lambda prior, render: render.rgb,
        )
        optimise(
            problem,
            guidance,
            config,
            LoggingConfig(),
            seed=settings.seed,
            name=f"study {k}",
            state_file=state / f"state-{k}.safetensors",
            observe=lambda step, metrics, done=done: progress(done + step, total),
        )
        done += config.steps
    return torch.cat([scene.image() if settings.pixels else prior.decode(scene.latents) for scene in scenes]).detach()


def _scene(prior: LatentDiffusion, settings: Settings, k: int, batch: int) -> ImageScene | LatentScene:
    """The k-th `batch` of particles."""
    draw = generator(settings.seed, "particle", k)
    if settings.pixels:
        return ImageScene(prior.resolution, count=batch, generator=draw)
    side = prior.unet.config.sample_size
    return LatentScene((prior.unet.config.in_channels, side, side), count=batch, generator=draw)


@dataclass(frozen=True)
class Row:
    """A method's measures over all prompts; what is a ratio is over the truth's.

    kid, frechet: to true renders, in the judge's features, each in units of its deviation; family, colour: share in which the judge
    agrees; alignment: the scorer's cosine; seconds: per picture.
    """

    method: str
    images: int
    kid: float
    frechet: float | None
    alignment: float | None
    family: float
    colour: float
    saturation: float
    diversity: float
    seconds: float


def row(
    method: str, made: dict[str, Tensor], truth: dict[str, Tensor], seconds: float, judge, agreement, scorer=None
) -> Row:
    """Judge a method's pictures, by prompt, (n, 3, S, S) each, against true renders (m, 3, S, S) of the same prompts.

    judge(images) -> features (B, D); agreement(images, prompt) -> {"family_agreement", "colour_agreement"};
    scorer: a `prior.scorer.Scorer`, or None.
    """
    features = {prompt: (judge(made[prompt]), judge(truth[prompt])) for prompt in made}
    ours, true = (torch.cat([pair[k] for pair in features.values()]) for k in (0, 1))
    scale = true.std(0).clamp(min=1e-6)  # a judge's features have no unit
    ours, true = ours / scale, true / scale
    agreed = [agreement(images, prompt) for prompt, images in made.items()]
    spread = [(pairwise_distance(a), pairwise_distance(b)) for a, b in features.values()]
    count = sum(len(images) for images in made.values())
    return Row(
        method=method,
        images=count,
        kid=kernel_distance(ours, true),
        frechet=frechet_distance(ours, true) if count >= ENOUGH_FOR_FRECHET else None,
        alignment=_mean([float(scorer.similarity(images, [prompt]).mean()) for prompt, images in made.items()])
        if scorer
        else None,
        family=_mean([shares["family_agreement"] for shares in agreed]),
        colour=_mean([shares["colour_agreement"] for shares in agreed]),
        saturation=saturation(torch.cat(list(made.values()))) / saturation(torch.cat(list(truth.values()))),
        diversity=sum(a for a, _ in spread) / sum(b for _, b in spread),
        seconds=seconds / count,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
