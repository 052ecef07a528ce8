"""Training of the autoencoder.

The autoencoder encodes 64 x 64 pixels as 16 x 16 latents with mean 0 and standard deviation 1. Training starts from a
linear codec (`codec_init`). The decoder receives the mean of the posterior, because reconstructions from samples of the
posterior do not exceed 18 dB. After training, the normalisation of the latents is folded into the 1 x 1 convolutions,
and every training image is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prolific_core.toybox.files import save_array
from prolific_core.toybox.params import SIZE, AutoencoderConfig
from prolific_core.toybox.training import codec_init
from prolific_core.toybox.training.loop import Training, run, warm_up_and_fall
from prolific_core.toybox.training.shards import Shards, heldout_images, to_unit

CHANNELS = (16, 32, 32)  # `codec_init` requires these channels.


def build(latent: int, channels: tuple[int, ...]) -> Any:
    """Build a small AutoencoderKL that encodes 64 x 64 pixels as 16 x 16 latents.

    Args:
        latent: Channels of the latents.
        channels: Channels of the levels of the encoder and the decoder.

    Returns:
        A `diffusers.AutoencoderKL` with random weights.
    """
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

    n = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * n,  # pyright: ignore[reportArgumentType]
        block_out_channels=channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=latent,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=1.0,
    )


def encode_mean(vae: Any, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch latent h w"]:
    """Encode images as the mean of the posterior.

    Args:
        vae: AutoencoderKL.
        images: sRGB in [-1, 1].

    Returns:
        The latents.
    """
    return vae.encode(images).latent_dist.mode()


def psnr(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    """Compute the peak signal-to-noise ratio from the mean squared error over all images.

    Args:
        a: Images in [-1, 1].
        b: Images to compare with, in [-1, 1].

    Returns:
        The ratio in dB.
    """
    return float(10 * np.log10(4.0 / float((a - b).square().mean())))


def loss_of(vae: Any, images: Float[Tensor, "batch 3 height width"], kl: float) -> Float[Tensor, ""]:
    """Compute the loss of the autoencoder.

    Args:
        vae: AutoencoderKL.
        images: sRGB in [-1, 1].
        kl: Weight of the squared mean of the posterior, which limits the scale of the latents.

    Returns:
        The mean absolute error plus twice the mean squared error of the reconstructions, plus the weighted squared mean
        of the posterior.
    """
    posterior = vae.encode(images).latent_dist
    d = vae.decode(posterior.mode()).sample - images
    return d.abs().mean() + 2.0 * d.square().mean() + kl * posterior.mean.square().sum(dim=(1, 2, 3)).mean()


def evaluate(
    vae: Any, images: UInt8[np.ndarray, "batch height width 3"], show: Callable[[Tensor], None] | None = None
) -> float:
    """Compute the PSNR of reconstructed images.

    Args:
        vae: AutoencoderKL, which is left in training mode.
        images: Images that are not used for training.
        show: Callback that receives the first 32 images, each followed by its reconstruction, in [0, 1].

    Returns:
        The PSNR in dB.
    """
    vae.eval()
    x = to_unit(images)
    with torch.no_grad():
        y = torch.cat([vae.decode(encode_mean(vae, b)).sample for b in x.split(64)]).clamp(-1, 1)
    vae.train()
    if show:
        both = torch.stack([x[:32], y[:32]], 1).flatten(0, 1)
        show((both + 1) / 2)
    return psnr(x, y)


def train(
    shards: Path,
    config: AutoencoderConfig,
    state: Path,
    observe: Callable[[int, dict], None] = lambda step, values: None,
    show: Callable[[Tensor, int], None] = lambda images, step: None,
    seed: int = 3,
) -> Any:
    """Train and normalise the autoencoder, or resume its training.

    Args:
        shards: Folder of the rendered shards.
        config: Parameters of the autoencoder and its training. If `config.initial` is set, the autoencoder of that
            published model is returned unchanged, so that U-Nets trained on its latents can be trained further.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the step and its metrics: loss, learning rate and psnr_db.
        show: Callback that receives images (N, 3, S, S) in [0, 1], each followed by its reconstruction, and the step.
        seed: Seed of the initial weights and of the random numbers of all steps.

    Returns:
        The trained `diffusers.AutoencoderKL`, in evaluation mode.
    """
    if config.initial:
        from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

        return AutoencoderKL.from_pretrained(Path(config.initial) / "vae").float().eval()
    torch.manual_seed(seed)  # This affects only the initial weights, because each step seeds its own generator.
    vae, data = build(config.latent, CHANNELS), Shards(shards, ("train",))
    if not state.exists():
        first = np.asarray(data.images[0][:1024])
        codec_init.start_encoder(vae, first)
        codec_init.start_decoder(vae, first, config.linear_steps)
    vae.to(memory_format=torch.channels_last)
    test, _ = heldout_images(count=128)

    def loss(step: int) -> Tensor:
        k, rows = data.pick(np.random.default_rng((seed, step)), config.batch)
        x = to_unit(np.asarray(data.images[k][rows])).contiguous(memory_format=torch.channels_last)
        return loss_of(vae, x, config.kl)

    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    run(
        Training(vae, optimizer, loss, warm_up_and_fall(config.learning_rate, config.steps)),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: {"psnr_db": evaluate(vae, test, lambda images: show(images, step))},
    )
    normalise(vae, to_unit(np.asarray(data.images[0][:1024])))
    return vae.eval()


def normalise(vae: Any, images: Float[Tensor, "batch 3 height width"]) -> None:
    """Fold the normalisation of the latents into the two 1 x 1 convolutions.

    Every latent channel of the images then has mean 0 and standard deviation 1, so the scaling factor is 1. The decoded
    images do not change.

    Args:
        vae: AutoencoderKL, which is changed in place.
        images: sRGB in [-1, 1].
    """
    with torch.no_grad():
        z = torch.cat([encode_mean(vae, b) for b in images.split(64)])
        before = vae.decode(z[:8]).sample
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3)).clamp(min=1e-6)
        k = vae.config.latent_channels
        q, p = vae.quant_conv, vae.post_quant_conv
        q.weight[:k] /= std[:, None, None, None]
        q.bias[:k] = (q.bias[:k] - mean) / std
        # The log variance is not trained, so it is set to a constant that makes the variance negligible.
        q.weight[k:] = 0
        q.bias[k:] = -12.0
        p.bias += (p.weight[:, :, 0, 0] * mean).sum(1)
        p.weight *= std[None, :, None, None]
        after = vae.decode(encode_mean(vae, images[:8])).sample
    assert (before - after).abs().max() < 1e-3, "normalising the latents must not change the decoded images"


def encode(
    vae: Any, shards: Path, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Encode all training shards.

    The latents (N, latent, 16, 16) of each shard are written as a float16 array under the name of the shard.

    Args:
        vae: AutoencoderKL.
        shards: Folder of the rendered shards.
        folder: Folder to write to.
        progress: Callback that receives the number of encoded shards and their total.
    """
    vae, data = vae.to(memory_format=torch.channels_last), Shards(shards, ("train",))
    for k, (name, images) in enumerate(zip(data.names, data.images)):
        with torch.no_grad():
            z = torch.cat(
                [encode_mean(vae, to_unit(np.asarray(images[i : i + 64]))) for i in range(0, len(images), 64)]
            )
        save_array(folder / f"{name}.npy", z.contiguous().numpy().astype(np.float16))
        progress(k + 1, len(data.names))
