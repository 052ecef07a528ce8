"""The autoencoder: 64 x 64 pixels to 16 x 16 latents of mean 0 and deviation 1.

Trained on the posterior's mean (its samples plateau at 18 dB), beginning at a
linear codec (codec_init); then the latents' normalisation is folded into its
1 x 1 convolutions, and every training image encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from prolific_core.toybox.files import save_array
from prolific_core.toybox.params import SIZE, Autoencoder
from prolific_core.toybox.training import codec_init
from prolific_core.toybox.training.loop import Training, run, warm_up_and_fall
from prolific_core.toybox.training.shards import Shards, heldout_images, to_unit

CHANNELS = (16, 32, 32)  # codec_init is written for these


def build(latent: int, channels: tuple[int, ...]):
    """A small AutoencoderKL: 64 x 64 x 3 -> 16 x 16 x latent."""
    from diffusers import AutoencoderKL

    n = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=1.0,
    )


def encode_mean(vae, images):
    """Latents (B, latent, 16, 16) before scaling; images (B, 3, S, S) in [-1, 1]."""
    return vae.encode(images).latent_dist.mode()


def psnr(a, b) -> float:
    """dB over images in [-1, 1] (a range of 2), one mean square over all."""
    return float(10 * np.log10(4.0 / float((a - b).square().mean())))


def loss_of(vae, images, kl: float):
    """Reconstruction on the mean, L1 + MSE; a weak KL keeps the latents' scale."""
    posterior = vae.encode(images).latent_dist
    d = vae.decode(posterior.mode()).sample - images
    return d.abs().mean() + 2.0 * d.square().mean() + kl * posterior.mean.square().sum(dim=(1, 2, 3)).mean()


def evaluate(vae, images, picture: Callable | None = None) -> float:
    """Held-out PSNR in dB of uint8 (N, S, S, 3); picture(views) is given images beside their copies."""
    import torch

    vae.eval()
    x = to_unit(images)
    with torch.no_grad():
        y = torch.cat([vae.decode(encode_mean(vae, b)).sample for b in x.split(64)]).clamp(-1, 1)
    vae.train()
    if picture:
        both = torch.stack([x[:32], y[:32]], 1).flatten(0, 1)
        picture((both + 1) / 2)
    return psnr(x, y)


def load(folder: Path):
    """A published model's autoencoder, float32, in eval mode."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(Path(folder) / "vae").float().eval()


def train(
    shards: Path,
    config: Autoencoder,
    state: Path,
    observe=lambda step, values: None,
    picture=lambda views, step: None,
    seed: int = 3,
):
    """The trained and normalised AutoencoderKL; resumes from the checkpoint `state`.

    A published one (`config.initial`) is taken as it is: the U-Nets that know its
    latents can then be continued. observe(step, values) is told loss and
    psnr_db; picture(views, step) is given (N, 3, S, S) in [0, 1].
    """
    import torch

    if config.initial:
        return load(config.initial)
    torch.manual_seed(seed)  # initial weights only; every draw below is seeded by its step
    vae, data = build(config.latent, CHANNELS), Shards(shards, ("train",))
    if not state.exists():
        first = np.asarray(data.images[0][:1024])
        codec_init.start_encoder(vae, first)
        codec_init.start_decoder(vae, first, config.linear_steps)
    vae.to(memory_format=torch.channels_last)
    test, _ = heldout_images(count=128)

    def loss(step: int):
        k, rows = data.pick(np.random.default_rng((seed, step)), config.batch)
        x = to_unit(np.asarray(data.images[k][rows])).contiguous(memory_format=torch.channels_last)
        return loss_of(vae, x, config.kl)

    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    run(
        Training(vae, optimizer, loss, warm_up_and_fall(config.learning_rate, config.steps)),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: {"psnr_db": evaluate(vae, test, lambda views: picture(views, step))},
    )
    normalise(vae, to_unit(np.asarray(data.images[0][:1024])))
    return vae.eval()


def normalise(vae, images) -> None:
    """Fold a per-channel normalisation into the two 1 x 1 convolutions; images (N, 3, S, S) in [-1, 1].

    After it every latent channel of these images has mean 0 and deviation 1, so
    that scaling_factor is 1, and the decoder's output is what it was.
    """
    import torch

    with torch.no_grad():
        z = torch.cat([encode_mean(vae, b) for b in images.split(64)])
        before = vae.decode(z[:8]).sample
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3)).clamp(min=1e-6)
        k = vae.config.latent_channels
        q, p = vae.quant_conv, vae.post_quant_conv
        q.weight[:k] /= std[:, None, None, None]
        q.bias[:k] = (q.bias[:k] - mean) / std
        # The untrained log variance must not matter: make it tiny and constant.
        q.weight[k:] = 0
        q.bias[k:] = -12.0
        p.bias += (p.weight[:, :, 0, 0] * mean).sum(1)
        p.weight *= std[None, :, None, None]
        after = vae.decode(encode_mean(vae, images[:8])).sample
    assert (before - after).abs().max() < 1e-3, "the fold changed the decoder"


def encode(vae, shards: Path, folder: Path, progress=lambda done, total: None) -> None:
    """Latents (N, latent, 16, 16) float16 of every training shard, by its name."""
    import torch

    vae, data = vae.to(memory_format=torch.channels_last), Shards(shards, ("train",))
    for k, (name, images) in enumerate(zip(data.names, data.images)):
        with torch.no_grad():
            z = torch.cat(
                [encode_mean(vae, to_unit(np.asarray(images[i : i + 64]))) for i in range(0, len(images), 64)]
            )
        save_array(folder / f"{name}.npy", z.contiguous().numpy().astype(np.float16))
        progress(k + 1, len(data.names))
