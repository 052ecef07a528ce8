"""Latent diffusion models in the format of diffusers' `StableDiffusionPipeline`.

The same class loads Stable Diffusion and the Toybox, a small model that is included in the package. Subclasses serve
models with other conditions (`latent_diffusion_xl.py`, `multi_view.py`); `load.py` chooses the class.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.prior.noise_schedule import Latents, NoiseSchedule, TextEmbeddings, Times, classifier_free
from prolific_core.prior.parts import data_type, load_parts

if TYPE_CHECKING:

    class UNetConfig(Protocol):
        """Entries of a U-Net's configuration that this package uses."""

        sample_size: int
        in_channels: int
        out_channels: int

    class UNetOutput(Protocol):
        """Output of a U-Net."""

        sample: Tensor

    class TimeEmbedding(nn.Module):
        """MLP that embeds the diffusion time."""

        linear_2: nn.Linear

    class UNet(nn.Module):
        """Interface of diffusers' UNet2DConditionModel, which lacks precise type annotations."""

        config: UNetConfig
        dtype: torch.dtype
        device: torch.device
        is_gradient_checkpointing: bool
        time_embedding: TimeEmbedding
        conv_out: nn.Conv2d

        def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Any) -> UNetOutput:
            """Predict eps or v from noisy latents, time steps and the conditions of `LatentDiffusion.conditions`."""
            ...

        def enable_gradient_checkpointing(self) -> None:
            """Enable the recomputation of activations in the backward pass."""
else:
    UNet = nn.Module


class LatentDiffusion(nn.Module):
    """Latent diffusion model that encodes images, embeds texts, predicts noise and samples images.

    The weights are frozen, but gradients propagate through `encode`. Images are RGB in [0, 1], and latents have the
    scale that the U-Net expects.

    Args:
        unet: A `diffusers.UNet2DConditionModel`.
        vae: A `diffusers.AutoencoderKL`.
        text_encoder: A `transformers.CLIPTextModel`.
        tokenizer: A `transformers.CLIPTokenizer`.
        scheduler: A diffusers scheduler.

    Attributes:
        views_together: Number of consecutive rows that the model denoises together, at the same time step.
    """

    vae: Any
    text_encoder: Any
    views_together: int = 1

    def __init__(self, unet: UNet, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any):
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
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        vae_slicing: bool = False,
        gradient_checkpointing: bool = False,
        torch_compile: bool = False,
        key: str = "prior.path",
    ) -> "LatentDiffusion":
        """Load a frozen model.

        All arguments except `device` and `key` are fields of `config.PriorConfig`.

        Args:
            path: `toybox`, a folder, a `.safetensors` file of a whole model, or a model id on the Hugging Face hub.
            device: Device of the weights.
            dtype: Name of the weights' data type; see `parts.data_type`.
            vae_slicing: Whether the autoencoder processes images one by one.
            gradient_checkpointing: Whether the U-Net and the autoencoder recompute activations in the backward pass.
            torch_compile: Whether the U-Net is compiled.
            key: Name of the setting that holds the path, for error messages.

        Returns:
            The frozen model.

        Raises:
            InputError: A part of the model is missing, or the model is of another kind.
        """
        prior = cls(*cls._load_parts(path, data_type(dtype, device), key))
        on_gpu = torch.device(device).type != "cpu"
        for part in (prior.unet, prior.vae, prior.schedule):  # `embed` moves the text encoder
            # The layout that the tensor cores' convolutions need.
            options: Any = {"memory_format": torch.channels_last} if on_gpu else {}
            nn.Module.to(part, device, **options)
        if vae_slicing:
            prior.vae.enable_slicing()
        if gradient_checkpointing:
            prior.unet.enable_gradient_checkpointing()
            prior.vae.enable_gradient_checkpointing()
        if torch_compile:
            prior.unet.compile()
        return prior

    @staticmethod
    def _load_parts(path: str, dtype: torch.dtype, key: str) -> tuple[Any, ...]:
        """Load the arguments of the constructor."""
        return load_parts(path, dtype, key)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.schedule.alphas_cumprod.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the U-Net's weights."""
        # diffusers' own `dtype` iterates over all parameters, which is slow compared with evaluating a small model.
        return next(self.unet.parameters()).dtype

    @property
    def is_compiled(self) -> bool:
        """Return whether the U-Net is compiled on its first call."""
        return self.unet._compiled_call_impl is not None

    @cached_property
    def resolution(self) -> int:
        """Height and width in pixels of the images that the model was trained on."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents at the model's training resolution."""
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Latents:
        """Encode images differentiably.

        The latents are the mean of the posterior instead of a sample, so that the gradient has no sampling noise.

        Args:
            images: Images in [0, 1], which are resized to the model's resolution.

        Returns:
            Latents.
        """
        if images.shape[-1] != self.resolution:
            size = (self.resolution, self.resolution)
            shrink = images.shape[-1] > self.resolution
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=shrink)
        mean = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist.mean
        return (mean.to(images.dtype) - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Latents) -> Float[Tensor, "batch 3 height width"]:
        """Decode latents without gradients.

        Args:
            latents: Latents.

        Returns:
            Images in [0, 1].
        """
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return (self.vae.decode(latents.to(self.vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed(self, texts: str | list[str]) -> TextEmbeddings:
        """Embed texts and cache the embedding of each text.

        The text encoder is on a GPU only while it embeds texts, because a run needs it for a few texts once.

        Args:
            texts: One text or several.

        Returns:
            The last hidden states of the text encoder, with one row per text.
        """
        texts = [texts] if isinstance(texts, str) else texts
        new = set(texts) - self._embeddings.keys()
        encoders = self.text_encoders() if new and self.device.type != "cpu" else []
        for encoder in encoders:
            encoder.to(self.device)
        for text in new:
            self._embeddings[text] = self._encode_text(text)
        for encoder in encoders:
            encoder.to("cpu")
        return torch.cat([self._embeddings[text] for text in texts])

    def text_encoders(self) -> list[nn.Module]:
        """Return the text encoders, which are on the CPU except while they embed texts."""
        return [self.text_encoder]

    def _encode_text(self, text: str) -> Float[Tensor, "1 tokens features"]:
        """Embed one text with the text encoder."""
        return self.text_encoder(self._tokenize(self.tokenizer, text))[0]

    def _tokenize(self, tokenizer: Any, text: str) -> Tensor:
        length = tokenizer.model_max_length
        tokens = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return tokens.input_ids.to(self.device, non_blocking=True)

    def observe(self, c2w: Float[Tensor, "batch 4 4"]) -> None:
        """Set the cameras of the views that are predicted next, which only multi-view models use.

        Args:
            c2w: Camera-to-world matrices.
        """

    def conditions(self, text: TextEmbeddings, c2w: Float[Tensor, "batch 4 4"] | None = None) -> dict[str, Any]:
        """Return the named inputs of the U-Net besides latents and time steps.

        Args:
            text: Text embeddings.
            c2w: Camera-to-world matrices of the views, which only multi-view models use.

        Returns:
            Tensors, or dictionaries of tensors, in the data type of the U-Net.
        """
        return {"encoder_hidden_states": text.to(self.dtype)}

    def keep_only_unet(self, texts: list[str]) -> None:
        """Free the autoencoder and the text encoder of a model that will only predict noise.

        Args:
            texts: The texts that will be used; their embeddings are kept.
        """
        self.embed(texts)
        self.vae = self.text_encoder = None

    def predict_noise(
        self,
        noisy: Latents,
        t: Times,
        text: TextEmbeddings,
    ) -> Latents:
        """Predict the noise in noisy latents.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            text: Text embeddings.

        Returns:
            The predicted noise eps.
        """
        output = self.unet(noisy.to(self.dtype), t, **self.conditions(text)).sample
        return self.schedule.noise_from(output.to(noisy.dtype), noisy, t)

    @torch.no_grad()
    def guided_noise(
        self,
        noisy: Latents,
        t: Times,
        text: TextEmbeddings,
        negative: TextEmbeddings,
        scale: float,
    ) -> Latents:
        """Predict noise with classifier-free guidance.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            text: Text embeddings of the condition.
            negative: Text embeddings of the negative prompt, or of the empty text.
            scale: Guidance scale; at 1 the negative prompt is not evaluated.

        Returns:
            The guided noise eps.
        """
        if scale == 1.0:
            return self.predict_noise(noisy, t, text)
        both = self.predict_noise(torch.cat([noisy] * 2), torch.cat([t] * 2), torch.cat([negative, text]))
        unconditional, conditional = both.chunk(2)
        return classifier_free(unconditional, conditional, scale)

    @torch.no_grad()
    def sample(
        self,
        texts: str | list[str],
        *,
        scale: float = 3.0,
        steps: int = 30,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        negative: str = "",
    ) -> Float[Tensor, "batch 3 height width"]:
        """Sample images with DDIM (Song et al., arXiv 2010.02502, eqs. 12 and 16).

        Args:
            texts: One text per image, or a single text for one image.
            scale: Scale of the classifier-free guidance.
            steps: Number of sampling steps.
            eta: 0 for deterministic sampling, 1 for ancestral sampling with new noise at every step.
            generator: Source of the random numbers, on the CPU. If None, torch's global generator is used.
            negative: The negative prompt.

        Returns:
            Images in [0, 1].
        """
        texts = [texts] if isinstance(texts, str) else texts
        text, empty = self.embed(texts), self.embed([negative] * len(texts))
        latents = torch.randn(len(texts), *self.latent_shape, generator=generator).to(self.device)
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
