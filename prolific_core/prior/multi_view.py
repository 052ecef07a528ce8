"""Multi-view latent diffusion in the manner of MVDream (Shi et al., arXiv 2308.16512).

The views of one orbit are noised to the same time and denoised together: self-attention sees the tokens of all views of
the orbit, and each view's camera is added to the time embedding. The model therefore knows which side it draws, so that
an object does not get a face on each of them. The network is a `UNet2DConditionModel` whose `class_embedding` is the
MLP of the camera.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.prior.latent_diffusion import LatentDiffusion, UNet
from prolific_core.prior.noise_schedule import TextEmbeddings
from prolific_core.prior.parts import Parts, load_parts

#: Number of views that are denoised together, as in MVDream.
VIEWS = 4


class MultiViewDiffusion(LatentDiffusion):
    """Latent diffusion model of the `VIEWS` views of an orbit.

    Rows of latents are in groups of `VIEWS` consecutive ones. `observe` sets the cameras of a step.

    Args:
        unet: A `diffusers.UNet2DConditionModel` with `class_embed_type="projection"` and 16 camera numbers.
        vae: A `diffusers.AutoencoderKL`.
        text_encoder: A `transformers.CLIPTextModel`.
        tokenizer: A `transformers.CLIPTokenizer`.
        scheduler: A diffusers scheduler.
    """

    views_together = VIEWS

    def __init__(self, unet: UNet, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any):
        super().__init__(unet, vae, text_encoder, tokenizer, scheduler)
        attend_across_views(unet)
        self._c2w: Tensor | None = None

    @staticmethod
    def _load_parts(path: str, dtype: torch.dtype, key: str) -> Parts:
        parts = load_parts(path, dtype, key, conditions=("projection",))
        if parts.unet.config.projection_class_embeddings_input_dim != 16:
            raise InputError(f"{key}: the U-Net of {path} does not take cameras of 16 numbers")
        return parts

    def observe(self, c2w: Float[Tensor, "batch 4 4"]) -> None:
        """Set the cameras of the views that are predicted next; see `LatentDiffusion.observe`."""
        if len(c2w) % VIEWS:
            raise InputError(f"a multi-view prior needs {VIEWS} views per step, or a multiple, got {len(c2w)}")
        self._c2w = c2w

    def conditions(self, text: TextEmbeddings, c2w: Float[Tensor, "batch 4 4"] | None = None) -> dict[str, Any]:
        """Return the named inputs of the U-Net; see `LatentDiffusion.conditions`.

        Without `c2w`, the cameras given to `observe` are repeated for all rows, as for several texts at once.
        """
        if c2w is None:
            if self._c2w is None or len(text) % len(self._c2w):
                raise InputError(f"a multi-view prior must observe the cameras of its {len(text)} views first")
            c2w = self._c2w.repeat(len(text) // len(self._c2w), 1, 1)
        return {"encoder_hidden_states": text.to(self.dtype), "class_labels": camera_numbers(c2w).to(self.dtype)}

    def sample(self, texts: str | list[str], **options: Any) -> Float[Tensor, "batch 3 height width"]:
        """Sample the views of an orbit around each object, in order of azimuth; see `LatentDiffusion.sample`.

        Args:
            texts: One text per object, or a single text. The cameras given to `observe` apply to each.
            options: Further arguments of `LatentDiffusion.sample`.

        Returns:
            Images in [0, 1], `VIEWS` per text.
        """
        texts = [texts] if isinstance(texts, str) else texts
        return super().sample([text for text in texts for _ in range(VIEWS)], **options)


def camera_numbers(c2w: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch 16"]:
    """Return the camera-to-world matrices as MVDream sees them, with positions of length 1.

    Args:
        c2w: Camera-to-world matrices.
    """
    scale = torch.ones_like(c2w)
    scale[:, :3, 3] = 1 / (c2w[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8)
    return (c2w * scale).flatten(1)


class CrossViewAttention:
    """Attention processor in which the tokens of all views of an orbit attend to each other."""

    def __init__(self):
        from diffusers.models.attention_processor import AttnProcessor2_0

        self._processor: Any = AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """Evaluate a self-attention layer.

        Args:
            attn: The layer, a `diffusers.Attention`.
            hidden_states: Tokens (B, N, C) of B views.
            arguments: Further arguments of the layer, which self-attention leaves empty.
            named: The same by name.

        Returns:
            The result (B, N, C).
        """
        batch, tokens, channels = hidden_states.shape
        joined = hidden_states.reshape(batch // VIEWS, VIEWS * tokens, channels)
        return self._processor(attn, joined, *arguments, **named).reshape(batch, tokens, channels)


def attend_across_views(unet: nn.Module) -> None:
    """Make the self-attention layers of a U-Net, which diffusers names `attn1`, attend across views.

    Args:
        unet: The U-Net, which is changed.
    """
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.set_processor(CrossViewAttention())  # pyright: ignore[reportCallIssue]
