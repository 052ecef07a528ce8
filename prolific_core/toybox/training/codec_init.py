"""Initialisation of the autoencoder as a linear codec.

With random initial weights, this network needs hours to learn absolute colours, because its group norms remove the mean
of each group. The encoder is therefore initialised as an exact PCA of 4 x 4 patches with residual blocks that are the
identity, and the decoder as the best linear decoder that its upsampling path can represent.

Two properties let a signal pass through a norm and a SiLU unchanged. First, silu(x) - silu(-x) = x, so every signal is
stored together with its negative. Second, two constant channels +-K in each group of a norm keep the standard deviation
of the group nearly constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

CONSTANT = 6.0  # The constant K in the module's docstring.


def patch_pca(
    images: UInt8[np.ndarray, "batch height width 3"], latent: int
) -> tuple[Float[np.ndarray, " 48"], Float[np.ndarray, "{latent} 48"], Float[np.ndarray, " {latent}"]]:
    """Compute the principal components of all 4 x 4 patches.

    Args:
        images: Square images whose height and width are multiples of 4.
        latent: Number of components.

    Returns:
        The mean, the components and their standard deviations. The elements of a patch are ordered (channel, y, x).
    """
    x = images.astype(np.float32) / 127.5 - 1
    n, s = x.shape[:2]
    x = x.reshape(n, s // 4, 4, s // 4, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 48)
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov((x - mean).T))
    order = np.argsort(values)[::-1][:latent]
    return mean, vectors[:, order].T, np.sqrt(values[order])


def start_encoder(vae: Any, images: UInt8[np.ndarray, "batch height width 3"]) -> None:
    """Initialise the encoder as a patch PCA.

    The standard deviation of a latent channel is the square root of that of its component, relative to the first one.
    Equal deviations would give details, which hardly change the image, the same weight in diffusion as the luminance.

    Args:
        vae: AutoencoderKL with channels (16, 32, 32) and group norms of 4 groups.
        images: Images on which the PCA is computed.
    """
    mean, components, std = patch_pca(images, vae.config.latent_channels)
    scale = np.sqrt(std * std[0])
    e, k = vae.encoder, vae.config.latent_channels
    with torch.no_grad():
        silence(e)
        e.conv_in.weight[:3] = 0
        e.conv_in.bias[:3] = 0
        down1, down2 = e.down_blocks[0].downsamplers[0].conv, e.down_blocks[1].downsamplers[0].conv
        short = e.down_blocks[1].resnets[0].conv_shortcut
        for c in range(3):
            e.conv_in.weight[c, c, 1, 1] = 1
        down1.weight[:12], down1.bias[:12] = 0, 0
        short.weight[:12], short.bias[:12] = 0, 0
        for c in range(3):
            for y in range(2):
                for x in range(2):
                    j = c * 4 + y * 2 + x
                    down1.weight[j, c, y, x] = 1
                    short.weight[j, j] = 1
        e.conv_norm_out.weight[:] = 1
        e.conv_out.weight[:] = 0
        e.conv_out.bias[:] = 0
        for m in range(k):
            group, slot = divmod(m, 3)
            variance = (std / scale)[3 * group : 3 * group + 3] ** 2
            gain = float(np.sqrt((2 * variance.sum() + 2 * CONSTANT**2) / 8))
            # The axes are the channel, block row, row within the block, block column and column within the block.
            w = (components[m] / scale[m]).reshape(3, 2, 2, 2, 2)
            w = torch.tensor(w.transpose(0, 2, 4, 1, 3).reshape(12, 2, 2))
            for sign, ch in ((1, 8 * group + slot), (-1, 8 * group + 3 + slot)):
                down2.weight[ch] = 0
                down2.weight[ch, :12, :2, :2] = sign * w
                down2.bias[ch] = -sign * float(components[m] @ mean / scale[m])
                e.conv_norm_out.weight[ch] = gain
                e.conv_out.weight[m, ch, 1, 1] = sign
            for sign, ch in ((1, 8 * group + 6), (-1, 8 * group + 7)):
                down2.weight[ch] = 0
                down2.bias[ch] = sign * CONSTANT
        vae.quant_conv.weight[:] = torch.eye(2 * k)[:, :, None, None]
        vae.quant_conv.bias[:] = 0


def silence(module: nn.Module) -> None:
    """Set the last convolution of every residual block to zero, which turns the blocks into the identity.

    Args:
        module: Encoder or decoder.
    """
    for name, p in module.named_parameters():
        if ".conv2." in name:
            p.data.zero_()


def linear_path(vae: Any, z: Float[Tensor, "batch latent h w"]) -> Float[Tensor, "batch 16 height width"]:
    """Decode latents up to the last norm without the residual branches.

    Args:
        vae: AutoencoderKL.
        z: Latents.

    Returns:
        The activations before the last norm, at four times the resolution of the latents.
    """
    d = vae.decoder
    x = d.conv_in(vae.post_quant_conv(z))
    for block in d.up_blocks[:2]:
        x = block.upsamplers[0].conv(F.interpolate(x, scale_factor=2))
    return d.up_blocks[2].resnets[0].conv_shortcut(x)


def start_decoder(
    vae: Any, images: UInt8[np.ndarray, "batch height width 3"], steps: int, batch: int = 16, seed: int = 0
) -> float:
    """Initialise the decoder by fitting its linear path to the encoder's latents.

    Args:
        vae: AutoencoderKL whose encoder is already initialised.
        images: Images on which the decoder is fitted.
        steps: Number of Adam steps.
        batch: Images per step.
        seed: Seed for sampling batches.

    Returns:
        The loss of the last step.
    """
    d, k = vae.decoder, vae.config.latent_channels
    short = d.up_blocks[2].resnets[0].conv_shortcut
    with torch.no_grad():
        silence(d)
        vae.post_quant_conv.weight[:] = torch.eye(k)[:, :, None, None]
        vae.post_quant_conv.bias[:] = 0
    params = [
        *d.conv_in.parameters(),
        *d.up_blocks[0].upsamplers[0].parameters(),
        *d.up_blocks[1].upsamplers[0].parameters(),
        *short.parameters(),
    ]
    optimizer = torch.optim.Adam(params, lr=4e-3)
    g, loss = np.random.default_rng(seed), torch.zeros(())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        x = images[g.integers(0, len(images), batch)].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
        x = torch.from_numpy(np.ascontiguousarray(x))
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
        loss = (linear_path(vae, z)[:, [0, 4, 8]] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            print(f"linear decoder {step + 1}: {10 * np.log10(4 / loss.item()):.2f} dB", flush=True)
    with torch.no_grad():
        d.conv_out.weight[:] = 0
        d.conv_out.bias[:] = 0
        for c in range(3):
            short.weight[4 * c + 1] = -short.weight[4 * c]
            short.bias[4 * c + 1] = -short.bias[4 * c]
            for sign, ch in ((1, 4 * c + 2), (-1, 4 * c + 3)):
                short.weight[ch] = 0
                short.bias[ch] = sign * CONSTANT
            for sign, ch in ((1, 4 * c), (-1, 4 * c + 1)):
                d.conv_out.weight[c, ch, 1, 1] = sign
                d.conv_norm_out.weight[ch] = float(np.sqrt((2 * 0.4 + 2 * CONSTANT**2) / 4))
    return float(loss.detach())
