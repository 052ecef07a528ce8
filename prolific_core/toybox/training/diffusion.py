"""Training of the U-Net by v-prediction on cached latents, with a frozen text encoder.

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
from prolific_core.toybox.training.loop import Training, run, warm_up_stable_decay
from prolific_core.toybox.training.muon import MuonAdamW, inner_and_outer
from prolific_core.toybox.training.shards import Shards
from prolific_core.toybox.world.details import choose, describe
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


def build_unet(config: DiffusionConfig, latent: int, text_width: int) -> Any:
    """Build a U-Net on 16 x 16 latents with attention at the two lower resolutions only.

    The text reaches every block twice: by cross-attention, and pooled and added to the embedding of the timestep. With
    the default parameters, a forward pass costs 0.58 GFLOP.

    Args:
        config: Parameters of the U-Net.
        latent: Channels of the latents.
        text_width: Width of the text encoder.

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
        cross_attention_dim=text_width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=min(16, *config.channels),
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )


def build_scheduler() -> Any:
    """Build the cosine noise schedule with v-prediction.

    At its last timestep, nothing of the image is left, and sampling starts there. Otherwise, samples would inherit the
    mean brightness of their initial noise (Lin et al., arXiv 2305.08891).

    Returns:
        A `diffusers.DDIMScheduler`.
    """
    from diffusers import DDIMScheduler  # pyright: ignore[reportPrivateImportUsage]

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


class GroupNormInFloat32(torch.nn.GroupNorm):
    """Group norm that computes in float32 and returns the type of its input.

    Statistics in float32 are more accurate, and torch's group norm in bfloat16 takes three times as long on CPUs.
    """

    def forward(self, input: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch channels *size"]:
        """Normalise the input.

        Args:
            input: Tensor of any floating-point type.

        Returns:
            The normalised tensor, with the same type.
        """
        return super().forward(input.float()).to(input.dtype)


def use_float32_group_norms(model: torch.nn.Module) -> None:
    """Let all group norms of a model compute in float32.

    Args:
        model: Model to change; its parameters stay the same.
    """
    for module in model.modules():
        if type(module) is torch.nn.GroupNorm:
            module.__class__ = GroupNormInFloat32


class Latents:
    """In-memory data set of the cached latents and the labels of the training shards.

    The view changes the loss of a coloured object by only about 1 %, and two thirds of the views are side views, so the
    U-Net does not learn front and back views from uniformly sampled batches. A fraction `config.fronts` of each batch
    therefore shows these views, and a fraction `config.named_views` of the captions of objects with a front names the
    view. Another fraction `config.pairs` shows two objects, which are harder to draw than one.

    Args:
        shards: Folder of the rendered shards.
        latents: Folder of the cached latents.
        tok: Tokenizer.
        config: Parameters of the training.
    """

    def __init__(self, shards: Path, latents: Path, tok: Any, config: DiffusionConfig):
        data = Shards(shards, ("train",))
        self.config, self.tok = config, tok
        self.latents = np.concatenate([np.load(latents / f"{name}.npy", allow_pickle=False) for name in data.names])
        self.labels = [label for part in data.labels for label in part]
        faced = [label["family"] in WITH_FRONT and label["kind"] in ("colour", "normals") for label in self.labels]
        self.naming = np.where(faced, config.named_views, 0.5)
        ends = [label["kind"] == "colour" and label["view"] in ("front", "back") for label in self.labels]
        pairs = [label["kind"] == "pair" for label in self.labels]
        # Rows of the images for which a fraction of each batch is reserved.
        self.reserved = (
            (config.fronts, np.flatnonzero(np.array(faced) & np.array(ends))),
            (config.pairs, np.flatnonzero(pairs)),
        )

    def batch(
        self, g: np.random.Generator, size: int
    ) -> tuple[Float[Tensor, "{size} latent h w"], Int[Tensor, "{size} length"]]:
        """Sample a batch.

        Args:
            g: Random number generator.
            size: Number of images.

        Returns:
            The latents in float32, and the token ids of their captions, of which a fraction is empty.
        """
        rows, start = g.integers(0, len(self.latents), size), 0
        for fraction, candidates in self.reserved:
            count = round(fraction * size) if len(candidates) else 0
            if count:
                rows[start : start + count] = g.choice(candidates, count)
            start += count
        texts = [self.caption(row, g) if g.random() >= self.config.drop_caption else "" for row in rows.tolist()]
        return torch.from_numpy(self.latents[rows].astype(np.float32)), text.encode(self.tok, texts)

    def caption(self, row: int, g: np.random.Generator) -> str:
        """Write a caption with random details.

        Args:
            row: Index of the image.
            g: Random number generator.

        Returns:
            The caption.
        """
        label = self.labels[row]
        return describe(label, choose(label, g, self.naming[row], self.config.details))


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
    text_encoder: Any,
    config: DiffusionConfig,
    state: Path,
    observe: Callable[[int, dict], None] = lambda step, values: None,
    show: Callable[[Tensor, int], None] = lambda images, step: None,
    seed: int = 5,
) -> LatentDiffusion:
    """Train the U-Net, or resume its training.

    Args:
        shards: Folder of the rendered shards.
        latents: Folder of the cached latents.
        vae: AutoencoderKL that encoded the latents.
        text_encoder: Trained CLIPTextModel, which is not changed.
        config: Parameters of the U-Net and its training.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the step and its metrics: loss and learning rate.
        show: Callback that receives samples (N, 3, 64, 64) in [0, 1], four for each of `PROMPTS`, and the step.
        seed: Seed of the initial weights and of the random numbers of all steps.

    Returns:
        The prior with the averaged weights.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)  # This affects only the initial weights, because each step seeds its own generator.
    tok = text.tokenizer()
    data = Latents(shards, latents, tok, config)
    unet, average = (
        build_unet(config, vae.config.latent_channels, text_encoder.config.hidden_size).to(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    if config.initial:
        unet.load_state_dict(type(unet).from_pretrained(Path(config.initial) / "unet").float().state_dict())
    unet.set_attn_processor(AttnProcessor())  # The backward pass of fused attention takes a fifth of a step on CPUs.
    use_float32_group_norms(unet)
    prior = LatentDiffusion(cast(Any, average), vae, text_encoder, tok, build_scheduler())

    def loss(step: int) -> Tensor:
        g = np.random.default_rng((seed, step))
        z, ids = data.batch(g, config.batch)
        noise = torch.from_numpy(g.standard_normal(z.shape, dtype=np.float32))
        # Stratifying the times over the batch reduces the variance of the loss. The times are permuted, because the
        # first rows of a batch are always fronts, backs and pairs.
        u = (g.permutation(len(z)) + g.random()) / len(z)
        t = torch.from_numpy((towards_noise(u, config.time_shift) * prior.schedule.length).astype(np.int64))
        noisy, target = prior.schedule.add_noise(z, noise, t), prior.schedule.target(z, noise, t)
        with torch.no_grad():
            embedded = text_encoder(ids)[0]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            v = unet(noisy.contiguous(memory_format=torch.channels_last), t, embedded).sample
        return (v.float() - target).square().mean()

    def sample(step: int) -> dict:
        prompts = [prompt for prompt in PROMPTS for _ in range(4)]
        show(prior.sample(prompts, steps=20, generator=torch.Generator().manual_seed(0)), step)
        return {}

    optimizer = MuonAdamW(*inner_and_outer(unet), lr=config.learning_rate)
    rate = warm_up_stable_decay(config.learning_rate, config.steps, config.warmup, config.decay)
    run(
        Training(unet, optimizer, loss, rate, average=average, power=config.average_power),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=sample,
        evaluate_every=config.sample_every,
        decay=config.decay,
    )
    return prior
