"""Training of the U-Net and its text encoder by v-prediction on cached latents.

Every step depends only on the checkpoint, the seed and the step number. The averaged weights are published.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.toybox.params import DiffusionConfig
from prolific_core.toybox.training import text
from prolific_core.toybox.training.loop import Training, run, warm_up_and_fall
from prolific_core.toybox.training.shards import Shards
from prolific_core.toybox.world import captions
from prolific_core.toybox.world.families import WITH_FRONT

PROMPTS = (
    "a red mug",
    "a blue chair",
    "a red mushroom",
    "a yellow house, front view",
    "a green car, side view",
    "a white snowman, back view",
    "a normal map of a teapot",
    "a purple rocket",
)


def build_unet(config: DiffusionConfig, latent: int) -> Any:
    """Build a U-Net on 16 x 16 latents with attention at the two lower resolutions only.

    With the default parameters, a forward pass costs 0.37 GFLOP.

    Args:
        config: Parameters of the U-Net.
        latent: Channels of the latents.

    Returns:
        A `diffusers.UNet2DConditionModel` with random weights.
    """
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent,
        out_channels=latent,
        block_out_channels=tuple(config.channels),
        layers_per_block=1,
        cross_attention_dim=config.text_width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=min(16, *config.channels),
    )


def build_text_encoder(config: DiffusionConfig, tok: Any) -> Any:
    """Build a CLIP text encoder.

    Args:
        config: Parameters of the text encoder.
        tok: Tokenizer.

    Returns:
        A `transformers.CLIPTextModel` with random weights.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(**text.text_config(tok, config.text_width, config.text_layers, config.text_heads))
    )


def build_scheduler() -> Any:
    """Build the noise schedule of Stable Diffusion with v-prediction.

    Returns:
        A `diffusers.DDIMScheduler`.
    """
    from diffusers import DDIMScheduler  # pyright: ignore[reportPrivateImportUsage]

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Latents:
    """In-memory data set of the cached latents and caption tokens of the training shards.

    The view changes the loss of a coloured object by only about 1 %, and two thirds of the views are side views, so the
    U-Net does not learn front and back views from uniformly sampled batches. A fraction `config.fronts` of each batch
    therefore shows these views, and a fraction `config.named_views` of the captions of objects with a front names the
    view.

    Args:
        shards: Folder of the rendered shards.
        latents: Folder of the cached latents.
        tok: Tokenizer.
        config: Parameters of the training.
    """

    def __init__(self, shards: Path, latents: Path, tok: Any, config: DiffusionConfig):
        data = Shards(shards, ("train",))
        self.config = config
        self.latents = np.concatenate([np.load(latents / f"{name}.npy", allow_pickle=False) for name in data.names])
        labels = [label for part in data.labels for label in part]
        plain = [captions.without_view(label["caption"]) for label in labels]
        viewed = [captions.with_view(text, label["view"]) for text, label in zip(plain, labels, strict=True)]
        self.plain, self.viewed = (text.encode(tok, texts).numpy().astype(np.int16) for texts in (plain, viewed))
        faced = np.array([label["family"] in WITH_FRONT and label["kind"] in ("colour", "normals") for label in labels])
        self.naming = np.where(faced, config.named_views, 0.5)
        ends = [label["kind"] == "colour" and label["view"] in ("front", "back") for label in labels]
        self.fronts = np.flatnonzero(faced & np.array(ends))

    def batch(
        self, g: np.random.Generator, size: int
    ) -> tuple[Float[Tensor, "{size} latent h w"], Int[Tensor, "{size} length"]]:
        """Sample a batch.

        Args:
            g: Random number generator.
            size: Number of images.

        Returns:
            The latents in float32, and the token ids of their captions.
        """
        rows = g.integers(0, len(self.latents), size)
        fronts = round(self.config.fronts * size) if len(self.fronts) else 0
        rows[:fronts] = g.choice(self.fronts, fronts) if fronts else rows[:0]
        named = g.random(size) < self.naming[rows]
        ids = np.where(named[:, None], self.viewed[rows], self.plain[rows])
        return torch.from_numpy(self.latents[rows].astype(np.float32)), torch.from_numpy(ids.astype(np.int64))


def build(config: DiffusionConfig, latent: int, tok: Any) -> torch.nn.ModuleDict:
    """Build the U-Net and the text encoder with random weights or those of a published model.

    Args:
        config: Parameters of the models.
        latent: Channels of the latents.
        tok: Tokenizer.

    Returns:
        The models under the names "unet" and "text_encoder".
    """
    models = torch.nn.ModuleDict({"unet": build_unet(config, latent), "text_encoder": build_text_encoder(config, tok)})
    if config.initial:
        for name, model in models.items():
            kind: Any = type(model)
            model.load_state_dict(kind.from_pretrained(Path(config.initial) / name).float().state_dict())
    return models


def towards_noise(u: Float[np.ndarray, "*shape"], shift: float) -> Float[np.ndarray, "*shape"]:
    """Shift diffusion times towards noise.

    A time u is shifted to s u / (1 + (s - 1) u) (Esser et al., arXiv 2403.03206, eq. 23).

    Args:
        u: Times in [0, 1).
        shift: Factor s, which is at least 1; a factor of 1 leaves the times unchanged.

    Returns:
        The shifted times, in [0, 1).
    """
    return shift * u / (1 + (shift - 1) * u)


def train(
    shards: Path,
    latents: Path,
    vae: Any,
    config: DiffusionConfig,
    state: Path,
    observe: Callable[[int, dict], None] = lambda step, values: None,
    show: Callable[[Tensor, int], None] = lambda images, step: None,
    seed: int = 5,
) -> LatentDiffusion:
    """Train the U-Net and its text encoder, or resume their training.

    Args:
        shards: Folder of the rendered shards.
        latents: Folder of the cached latents.
        vae: AutoencoderKL that encoded the latents.
        config: Parameters of the models and their training.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the step and its metrics: loss and learning rate.
        show: Callback that receives samples (N, 3, 64, 64) in [0, 1], four for each of `PROMPTS`, and the step.
        seed: Seed of the initial weights and of the random numbers of all steps.

    Returns:
        The prior with the averaged weights.
    """
    torch.manual_seed(seed)  # This affects only the initial weights, because each step seeds its own generator.
    tok, channels = text.tokenizer(), vae.config.latent_channels
    data = Latents(shards, latents, tok, config)
    models, average = build(config, channels, tok), build(config, channels, tok)
    average.load_state_dict(models.state_dict())
    prior = LatentDiffusion(cast(Any, average["unet"]), vae, average["text_encoder"], tok, build_scheduler())
    empty = text.encode(tok, [""])[0]

    def loss(step: int) -> Tensor:
        g = np.random.default_rng((seed, step))
        z, ids = data.batch(g, config.batch)
        ids[torch.from_numpy(g.random(len(ids)) < config.drop_caption)] = empty
        noise = torch.from_numpy(g.standard_normal(z.shape, dtype=np.float32))
        # Stratifying the times over the batch reduces the variance of the loss.
        u = towards_noise((np.arange(len(z)) + g.random()) / len(z), config.time_shift)
        t = torch.from_numpy((u * prior.schedule.length).astype(np.int64))
        noisy, target = prior.schedule.add_noise(z, noise, t), prior.schedule.target(z, noise, t)
        v = models["unet"](noisy, t, models["text_encoder"](ids)[0]).sample
        return (v - target).square().mean()

    def sample(step: int) -> dict:
        prior.forget()
        prompts = [prompt for prompt in PROMPTS for _ in range(4)]
        show(prior.sample(prompts, steps=20, generator=torch.Generator().manual_seed(0)), step)
        return {}

    optimizer = torch.optim.AdamW(
        models.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, foreach=True
    )
    rate = warm_up_and_fall(config.learning_rate, config.steps, config.warmup, config.hold)
    run(
        Training(models, optimizer, loss, rate, average=average, ema=config.ema),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=sample,
        evaluate_every=config.sample_every,
    )
    return prior
