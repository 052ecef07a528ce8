"""Controlled experiment in 2D (ProlificDreamer, 2305.16213, section 3.2 and figure 5).

The particles are images, and different methods sample the same prior. Without a 3D scene, differences from ancestral
samples are caused by the method alone. A cell of the study is one method applied to one prompt, and its images are
compared with true renders of the prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
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
from prolific_core.optimise import distil
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.scorer import Scorer
from prolific_core.scenes.image import ImageScene, LatentScene
from prolific_core.seeding import generator

#: Minimum number of images for computing the Frechet distance. It is twice the dimension of the features.
ENOUGH_FOR_FRECHET = 128


@dataclass(frozen=True)
class Method:
    """Method that generates images for a prompt.

    Attributes:
        name: Name of the method in tables and on the command line.
        kind: "ancestral", or the name of a guidance method.
        scale: Scale of classifier-free guidance.
        shared: Whether all particles share one score network; otherwise, each particle has its own.
        share_pass: `ScoreConfig.share_pass`.
        interval: `GuidanceConfig.interval`.
    """

    name: str
    kind: str
    scale: float
    shared: bool = True
    share_pass: bool = False
    interval: tuple[float, float] | None = None


METHODS = (
    Method("ancestral 7.5", "ancestral", 7.5),
    Method("ancestral 3", "ancestral", 3.0),  # the scale used by `prolific prior check`
    Method("sds 100", "sds", 100.0),
    Method("sds 7.5", "sds", 7.5),
    Method("vsd 1", "vsd", 1.0),
    Method("vsd 3", "vsd", 3.0),
    Method("vsd 7.5", "vsd", 7.5),
    Method("vsd 7.5, n = 1", "vsd", 7.5, shared=False),
)

#: Methods with fewer network evaluations, which run only if they are requested by name.
SAVINGS = (
    Method("vsd 7.5, shared pass", "vsd", 7.5, share_pass=True),
    Method("vsd 7.5, interval", "vsd", 7.5, interval=(0.15, 0.85)),
)


@dataclass(frozen=True)
class Settings:
    """Settings that determine the result of a cell, together with the method, the prompt and the prior.

    Attributes:
        particles: Number of images.
        batch: Largest number of particles that are trained together. All batches of a cell have the same size.
        steps: Training steps per particle.
        sampler_steps: Number of ancestral sampling steps.
        learning_rate: Initial learning rate of the latents or of the pixel logits. It decays to a twentieth of this
            value.
        seed: Seed of all random draws.
        pixels: Whether the particles are images and are encoded by the prior's encoder, as in a 3D stage. By default,
            the particles are latents, so that results depend on the guidance alone.
    """

    particles: int = 8
    batch: int = 8
    steps: int = 200
    sampler_steps: int = 50
    learning_rate: float = 0.1
    seed: int = 0
    pixels: bool = False


def stage_config(method: Method, settings: Settings, *, steps: int, batch: int) -> StageConfig:
    """Return the training configuration of a method.

    The configurations of different methods differ only in the attributes of `Method`. View-dependent prompting is
    disabled, and t is drawn from U(0.02, 0.98) at the start of the run and from U(0.02, 0.3) at the end.

    Args:
        method: The method.
        settings: Settings of the study.
        steps: Total number of training steps over all batches.
        batch: Number of particles that are trained together.
    """
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
    progress: Callable[[int, int], object],
) -> Float[Tensor, "particles 3 side side"]:
    """Generate the images of one cell.

    Args:
        prior: The 2D diffusion model.
        method: The method.
        prompt: Text of the prompt.
        settings: Settings of the study.
        state: Checkpoint folder. An interrupted cell resumes from its checkpoints.
        progress: Function called with the number of finished steps and the total number of steps of the cell.

    Returns:
        Images (particles, 3, S, S) in [0, 1].
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
        score = generator(settings.seed, "score model", k)
        distil(
            group,
            base.build_guidance(prior, config.guidance, prompt, generator=score),
            config,
            LoggingConfig(),
            seed=settings.seed,
            name=f"study {k}",
            state_file=state / f"state-{k}.safetensors",
            observe=lambda step, metrics, done=done: progress(done + step, total),
        )
        done += config.steps
    return torch.cat(
        [scene.image() if isinstance(scene, ImageScene) else prior.decode(scene.latents) for scene in scenes]
    ).detach()


def _scene(prior: LatentDiffusion, settings: Settings, k: int, batch: int) -> ImageScene | LatentScene:
    """Return the k-th batch of particles."""
    options = {"count": batch, "learning_rate": settings.learning_rate}
    draw = generator(settings.seed, "particle", k)
    if settings.pixels:
        return ImageScene(prior.resolution, **options, generator=draw)
    return LatentScene(prior.latent_shape, **options, generator=draw)


@dataclass(frozen=True)
class Row:
    """Metrics of a method over all prompts.

    Attributes:
        method: Name of the method.
        images: Number of images.
        kid: Kernel distance to true renders, computed on classifier features with unit standard deviation.
        frechet: Frechet distance to true renders, computed on the same features; None for fewer than
            `ENOUGH_FOR_FRECHET` images.
        alignment: Mean cosine similarity between images and prompts; None if no scorer is given.
        family: Fraction of images that the classifier assigns to the prompt's family.
        colour: Fraction of images that the classifier assigns to the prompt's colour.
        saturation: Mean saturation of the images, divided by that of the true renders.
        diversity: Mean distance between images of the same prompt, divided by that between true renders.
        seconds: Generation time per image, in seconds.
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
    method: str,
    made: dict[str, Tensor],
    truth: dict[str, Tensor],
    seconds: float,
    features: Callable[[Tensor], Tensor],
    agreement: Callable[[Tensor, str], dict[str, float]],
    scorer: Scorer | None = None,
) -> Row:
    """Compare a method's images with true renders of the same prompts.

    Args:
        method: Name of the method.
        made: Images (N, 3, S, S) that the method generated, by prompt.
        truth: True renders (M, 3, S, S) by prompt.
        seconds: Total time to generate all images, in seconds.
        features: Function that maps images (B, 3, S, S) to classifier features (B, D).
        agreement: Function that returns "family_agreement" and "colour_agreement" for images and a prompt.
        scorer: Alignment scorer, or None to omit the alignment.
    """
    pairs = [(features(made[prompt]), features(truth[prompt])) for prompt in made]
    ours, true = (torch.cat(rows) for rows in zip(*pairs))
    scale = true.std(0).clamp(min=1e-6)  # Normalise the features, because their scales differ.
    ours, true = ours / scale, true / scale
    agreed = [agreement(images, prompt) for prompt, images in made.items()]
    distances = [(pairwise_distance(a), pairwise_distance(b)) for a, b in pairs]
    count = sum(len(images) for images in made.values())
    return Row(
        method=method,
        images=count,
        kid=kernel_distance(ours, true),
        frechet=frechet_distance(ours, true) if count >= ENOUGH_FOR_FRECHET else None,
        alignment=_mean([float(scorer.similarity(images, [prompt]).mean()) for prompt, images in made.items()])
        if scorer
        else None,
        family=_mean([fractions["family_agreement"] for fractions in agreed]),
        colour=_mean([fractions["colour_agreement"] for fractions in agreed]),
        saturation=saturation(torch.cat(list(made.values()))) / saturation(torch.cat(list(truth.values()))),
        diversity=sum(a for a, _ in distances) / sum(b for _, b in distances),
        seconds=seconds / count,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
