"""The U-Net and its text encoder: v-prediction on cached latents.

Every step is a pure function of the checkpoint and (seed, step). The average of
the weights is what is published.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.toybox.params import Diffusion
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


def build_unet(config: Diffusion, latent: int):
    """A U-Net of 16 x 16 latents, 0.37 GFLOP forward as it ships; attention below full size only."""
    from diffusers import UNet2DConditionModel

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


def build_text_encoder(config: Diffusion, tok):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(**text.text_config(tok, config.text_width, config.text_layers, config.text_heads))
    )


def build_scheduler():
    from diffusers import DDIMScheduler

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
    """Cached latents and captions' tokens of the training shards, in memory.

    The view word is worth a hundredth of the loss of a coloured thing, and the sides of things are
    four views of six: what a front and a back look like is not learned from even draws. So
    `config.fronts` of a batch are those views, and `config.named_views` of the captions of things that
    have a front say where they are seen from.
    """

    def __init__(self, shards: Path, latents: Path, tok, config: Diffusion):
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

    def batch(self, g: np.random.Generator, size: int):
        """((B, latent, 16, 16) float32, (B, L) int64)."""
        import torch

        rows = g.integers(0, len(self.latents), size)
        fronts = round(self.config.fronts * size) if len(self.fronts) else 0
        rows[:fronts] = g.choice(self.fronts, fronts) if fronts else rows[:0]
        named = g.random(size) < self.naming[rows]
        ids = np.where(named[:, None], self.viewed[rows], self.plain[rows])
        return torch.from_numpy(self.latents[rows].astype(np.float32)), torch.from_numpy(ids.astype(np.int64))


def build(config: Diffusion, latent: int, tok):
    """{"unet", "text_encoder"} as a ModuleDict: new, or a published model's."""
    import torch

    models = torch.nn.ModuleDict({"unet": build_unet(config, latent), "text_encoder": build_text_encoder(config, tok)})
    if config.initial:
        for name, model in models.items():
            folder = Path(config.initial) / name
            model.load_state_dict(type(model).from_pretrained(folder).float().state_dict())
    return models


def towards_noise(u: np.ndarray, shift: float) -> np.ndarray:
    """Times in [0, 1), drawn more often where there is more noise: s u / (1 + (s - 1) u) (2403.03206, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def train(
    shards: Path,
    latents: Path,
    vae,
    config: Diffusion,
    state: Path,
    observe=lambda step, values: None,
    picture=lambda views, step: None,
    seed: int = 5,
) -> LatentDiffusion:
    """The averaged weights as a prior; resumes from the checkpoint `state`.

    observe(step, values) is told the loss; picture(views, step) is given samples
    (N, 3, 64, 64) in [0, 1] of PROMPTS, four each.
    """
    import torch

    torch.manual_seed(seed)  # initial weights only; every draw below is seeded by its step
    tok, channels = text.tokenizer(), vae.config.latent_channels
    data, models, average = (
        Latents(shards, latents, tok, config),
        build(config, channels, tok),
        build(config, channels, tok),
    )
    average.load_state_dict(models.state_dict())
    prior = LatentDiffusion(average["unet"], vae, average["text_encoder"], tok, build_scheduler())
    bars, empty = prior.schedule.alphas_cumprod, text.encode(tok, [""])[0]

    def loss(step: int):
        g = np.random.default_rng((seed, step))
        z, ids = data.batch(g, config.batch)
        ids[torch.from_numpy(g.random(len(ids)) < config.drop_caption)] = empty
        noise = torch.from_numpy(g.standard_normal(z.shape, dtype=np.float32))
        # Stratified over the batch: the same distribution, a steadier loss.
        t = torch.from_numpy(
            (towards_noise((np.arange(len(z)) + g.random()) / len(z), config.time_shift) * len(bars)).astype(np.int64)
        )
        noisy, target = prior.schedule.add_noise(z, noise, t), prior.schedule.target(z, noise, t)
        v = models["unet"](noisy, t, models["text_encoder"](ids)[0]).sample
        return (v - target).square().mean()

    def show(step: int) -> dict:
        prior.forget()
        prompts = [prompt for prompt in PROMPTS for _ in range(4)]
        picture(prior.sample(prompts, steps=20, generator=torch.Generator().manual_seed(0)), step)
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
        evaluate=show,
        evaluate_every=config.sample_every,
    )
    return prior
