"""Training of the autoencoder.

The autoencoder encodes 64 x 64 pixels as 16 x 16 latents. Training starts from a linear codec (`codec_init`). The
decoder receives the mean of the posterior, because reconstructions from samples of the posterior do not exceed 18 dB.

The latents are made for diffusion. Decoding downscaled latents must give the downscaled image, which removes content
that only the decoder understands (EQ-VAE, Kouzelis et al., arXiv 2502.09509). Noise is added to the latents during
training, so that what matters in the image has a large amplitude in the latents. After training, the normalisation of
the latents is folded into the 1 x 1 convolutions, and every training image is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from prolific_core.toybox.files import save_array
from prolific_core.toybox.params import SIZE, AutoencoderConfig
from prolific_core.toybox.training import codec_init
from prolific_core.toybox.training.loop import Training, run, warm_up_and_decay
from prolific_core.toybox.training.shards import Shards, heldout_images, to_unit

CHANNELS = (16, 32, 32)  # `codec_init` requires these channels.
SIDES = (8, 10, 12)  # Sides of the downscaled latents; those of an image are 16.
RMS = 0.7  # Root mean square of the latents during training, which is otherwise free.


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


def difference(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Compute the mean absolute difference plus twice the mean squared difference.

    Args:
        a: Images in [-1, 1].
        b: Images to compare with, in [-1, 1].

    Returns:
        The weighted sum of both means.
    """
    d = a - b
    return d.abs().mean() + 2.0 * d.square().mean()


def downscale(
    x: Float[Tensor, "batch channels height width"], side: int
) -> Float[Tensor, "batch channels {side} {side}"]:
    """Downscale images or latents.

    Args:
        x: Images or latents.
        side: Height and width of the result.

    Returns:
        The result of antialiased bilinear interpolation.
    """
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def loss_of(
    vae: Any, images: Float[Tensor, "batch 3 64 64"], config: AutoencoderConfig, g: np.random.Generator
) -> Float[Tensor, ""]:
    """Compute the loss of the autoencoder.

    Args:
        vae: AutoencoderKL.
        images: sRGB in [-1, 1].
        config: Weights of the loss.
        g: Random number generator.

    Returns:
        The `difference` between the images and their reconstructions from noisy latents, plus the weighted difference
        between the downscaled images and the decoded downscaled latents, plus a term that keeps the latents' root mean
        square near `RMS`.
    """
    z = encode_mean(vae, images)
    rms = z.square().mean().sqrt()
    level = torch.from_numpy(g.uniform(0, config.noise, (len(z), 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(g.standard_normal(z.shape, dtype=np.float32))
    loss = difference(vae.decode(z + level * rms * noise).sample, images)
    if config.equivariance:
        side = int(g.choice(SIDES))
        small = downscale(images, side * SIZE // z.shape[-1])
        loss = loss + config.equivariance * difference(vae.decode(downscale(z, side)).sample, small)
    return loss + 1e-3 * (rms - RMS).square()


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
    vae, average, data = build(config.latent, CHANNELS), build(config.latent, CHANNELS), Shards(shards, ("train",))
    if not state.exists():
        first = np.asarray(data.images[0][:1024])
        codec_init.start_encoder(vae, first)
        codec_init.start_decoder(vae, first, config.linear_steps)
    vae.to(memory_format=torch.channels_last)
    test, _ = heldout_images(count=128)

    def loss(step: int) -> Tensor:
        g = np.random.default_rng((seed, step))
        k, rows = data.pick(g, config.batch)
        x = to_unit(np.asarray(data.images[k][rows])).contiguous(memory_format=torch.channels_last)
        return loss_of(vae, x, config, g)

    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    run(
        Training(vae, optimizer, loss, warm_up_and_decay(config.learning_rate, config.steps), average=average),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: {"psnr_db": evaluate(average, test, lambda images: show(images, step))},
    )
    normalise(average, to_unit(np.asarray(data.images[0][:1024])))
    return average.eval()


def normalise(vae: Any, images: Float[Tensor, "batch 3 height width"]) -> None:
    """Fold the normalisation of the latents into the two 1 x 1 convolutions.

    Every latent channel of the images then has mean 0, and the largest standard deviation of a channel is 1, so the
    scaling factor is 1. The ratios between the channels stay, because they reflect how much each matters. The decoded
    images do not change.

    Args:
        vae: AutoencoderKL, which is changed in place.
        images: sRGB in [-1, 1].
    """
    with torch.no_grad():
        z = torch.cat([encode_mean(vae, b) for b in images.split(64)])
        before = vae.decode(z[:8]).sample
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3)).max()
        k = vae.config.latent_channels
        q, p = vae.quant_conv, vae.post_quant_conv
        q.weight[:k] /= std
        q.bias[:k] = (q.bias[:k] - mean) / std
        # The log variance is not trained, so it is set to a constant that makes the variance negligible.
        q.weight[k:] = 0
        q.bias[k:] = -12.0
        p.bias += (p.weight[:, :, 0, 0] * mean).sum(1)
        p.weight *= std
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
