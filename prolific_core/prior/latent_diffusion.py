"""The prior: what a 2D latent diffusion model believes, in the StableDiffusionPipeline layout.

One class serves Stable Diffusion on a GPU and the Toybox, the small model that ships with the
package. It is frozen: its weights take no gradient, but gradients pass through `encode`.
"""

from functools import cached_property

import torch
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.prior.location import locate


def load_part(kind: type, path: str, subfolder: str, **options):
    """One part of a pipeline; a clear error where it cannot be had."""
    try:
        return kind.from_pretrained(locate(path), subfolder=subfolder, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"prior.path: cannot load {subfolder} of {path}: {reason}") from None


class NoiseSchedule(nn.Module):
    """alpha, sigma of the forward process x_t = alpha x_0 + sigma eps (Ho et al., 2006.11239, eq. 4)."""

    def __init__(self, scheduler):
        super().__init__()
        self.prediction = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise InputError(f"prior.path: predicts '{self.prediction}'; supported: epsilon, v_prediction")
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone().float())

    @property
    def length(self) -> int:
        """T, the number of time steps."""
        return len(self.alphas_cumprod)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), each (B, 1, 1, 1), for t (B,) int64."""
        alpha_bar = self.alphas_cumprod[t][:, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.coefficients(t)
        return alpha * latents + sigma * noise

    # A network's output is eps or v = alpha eps - sigma x_0 (Salimans & Ho, 2202.00512): the prior's own
    # `prediction`, unless a learned score has another.

    def noise_from(self, output: Tensor, noisy: Tensor, t: Tensor, prediction: str | None = None) -> Tensor:
        """eps from a network's output: itself, or alpha v + sigma x_t."""
        if (prediction or self.prediction) == "epsilon":
            return output
        alpha, sigma = self.coefficients(t)
        return alpha * output + sigma * noisy

    def output_from(self, noise: Tensor, noisy: Tensor, t: Tensor, prediction: str | None = None) -> Tensor:
        """The inverse of `noise_from`: eps itself, or v = (eps - sigma x_t) / alpha."""
        if (prediction or self.prediction) == "epsilon":
            return noise
        alpha, sigma = self.coefficients(t)
        return (noise - sigma * noisy) / alpha

    def target(self, latents: Tensor, noise: Tensor, t: Tensor, prediction: str | None = None) -> Tensor:
        """What the network is trained to output: eps, or v = alpha eps - sigma x_0."""
        if (prediction or self.prediction) == "epsilon":
            return noise
        alpha, sigma = self.coefficients(t)
        return alpha * noise - sigma * latents


def classifier_free(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance, this one formula everywhere (Ho & Salimans, 2207.12598)."""
    return unconditional + scale * (conditional - unconditional)


class LatentDiffusion(nn.Module):
    """Encode images, embed text, predict noise, sample.

    Images are float32 (B, 3, H, W) in [0, 1]; latents (B, C, h, w) are scaled as the U-Net expects.
    """

    def __init__(self, unet, vae, text_encoder, tokenizer, scheduler):
        super().__init__()
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.scheduler = scheduler
        self.schedule = NoiseSchedule(scheduler)
        self.requires_grad_(False).eval()
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        path: str,
        *,
        device="cpu",
        dtype: str = "float32",
        vae_slicing: bool = False,
        gradient_checkpointing: bool = False,
        torch_compile: bool = False,
    ) -> "LatentDiffusion":
        """From a folder, `toybox`, or a hub id, with the options of `config.PriorConfig`.

        Raises InputError naming what is missing.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        kind = getattr(torch, dtype)
        prior = cls(
            load_part(UNet2DConditionModel, path, "unet", torch_dtype=kind),
            load_part(AutoencoderKL, path, "vae", torch_dtype=kind),
            load_part(CLIPTextModel, path, "text_encoder", torch_dtype=kind),
            load_part(CLIPTokenizer, path, "tokenizer"),
            load_part(DDIMScheduler, path, "scheduler"),
        ).to(device)
        if vae_slicing:
            prior.vae.enable_slicing()
        if gradient_checkpointing:
            prior.unet.enable_gradient_checkpointing()
            prior.vae.enable_gradient_checkpointing()
        if torch_compile:
            prior.unet.compile()
        return prior

    @property
    def device(self) -> torch.device:
        return self.schedule.alphas_cumprod.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the U-Net's weights. (Its own `dtype` looks at all of them, a tenth of a small model's call.)"""
        return next(self.unet.parameters()).dtype

    @cached_property
    def resolution(self) -> int:
        """Side of the square images it was trained on, in pixels."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images, resized to the model's own resolution; differentiable.

        The posterior's mean, not a sample: one noise less in the gradient.
        """
        if images.shape[-1] != self.resolution:
            size = (self.resolution, self.resolution)
            shrink = images.shape[-1] > self.resolution
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=shrink)
        mean = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist.mean
        return (mean.to(images.dtype) - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return (self.vae.decode(latents.to(self.vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Tensor:
        """Text embeddings (B, L, D), each computed once."""
        for text in set(texts) - self._embeddings.keys():
            tokens = self.tokenizer(
                text,
                padding="max_length",
                truncation=True,
                max_length=self.tokenizer.model_max_length,
                return_tensors="pt",
            )
            self._embeddings[text] = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return torch.cat([self._embeddings[text] for text in texts])

    def forget(self) -> None:
        """Drop the embeddings kept: the text encoder has changed."""
        self._embeddings.clear()

    def predict_noise(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """eps (B, C, h, w) for noisy latents at times t (B,), text embeddings (B, L, D)."""
        output = self.unet(noisy.to(self.dtype), t, encoder_hidden_states=text.to(self.dtype)).sample
        return self.schedule.noise_from(output.to(noisy.dtype), noisy, t)

    @torch.no_grad()
    def guided_noise(self, noisy: Tensor, t: Tensor, text: Tensor, negative: Tensor, scale: float) -> Tensor:
        """eps under classifier-free guidance; at scale 1 the unconditional is not evaluated."""
        if scale == 1.0:
            return self.predict_noise(noisy, t, text)
        both = self.predict_noise(torch.cat([noisy] * 2), torch.cat([t] * 2), torch.cat([negative, text]))
        unconditional, conditional = both.chunk(2)
        return classifier_free(unconditional, conditional, scale)

    @torch.no_grad()
    def sample(
        self,
        texts: list[str],
        *,
        scale: float = 3.0,
        steps: int = 30,
        eta: float = 0.0,
        generator: torch.Generator,
        negative: str = "",
    ) -> Tensor:
        """Images (B, 3, H, W) by DDIM sampling (Song et al., 2010.02502, eq. 12 and 16).

        eta 0 is deterministic; 1 is ancestral sampling, with fresh noise at every step.
        """
        text, empty = self.embed(texts), self.embed([negative] * len(texts))
        side = self.unet.config.sample_size
        latents = torch.randn(len(texts), self.unet.config.in_channels, side, side, generator=generator).to(self.device)
        times = torch.linspace(self.schedule.length - 1, 0, steps + 1).round().long().to(self.device)
        for now, then in zip(times[:-1], times[1:], strict=True):
            t, next_t = now.expand(len(texts)), then.expand(len(texts))
            noise = self.guided_noise(latents, t, text, empty, scale)
            alpha, sigma = self.schedule.coefficients(t)
            clean = (latents - sigma * noise) / alpha
            latents = self.schedule.add_noise(clean, noise, next_t)
            if eta > 0:
                fresh = torch.randn(latents.shape, generator=generator).to(latents)
                next_alpha, next_sigma = self.schedule.coefficients(next_t)
                spread = eta * next_sigma / sigma * (1 - (alpha / next_alpha) ** 2).sqrt()
                latents = next_alpha * clean + (next_sigma**2 - spread**2).clamp(min=0).sqrt() * noise + spread * fresh
        return self.decode(clean)
