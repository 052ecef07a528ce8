"""Stable Diffusion XL (Podell et al., arXiv 2307.01952), in the format of diffusers' `StableDiffusionXLPipeline`.

Its U-Net is conditioned on the tokens of two text encoders, on the pooled embedding of the second, and on the size and
crop of the image.
"""

import json
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.prior.latent_diffusion import LatentDiffusion, UNet
from prolific_core.prior.location import index_of, locate
from prolific_core.prior.noise_schedule import TextEmbeddings
from prolific_core.prior.parts import load_part


class PartsXL(NamedTuple):
    """Parts of a Stable Diffusion XL model, in the order of the arguments of `LatentDiffusionXL`."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    text_encoder_2: Any
    tokenizer_2: Any
    zeros_for_empty: bool


class LatentDiffusionXL(LatentDiffusion):
    """Latent diffusion model with the conditions of Stable Diffusion XL.

    An embedding of a text holds one row more than there are tokens: the last row is the pooled embedding, padded with
    zeros. All code that repeats, selects or interpolates embeddings therefore treats both alike.

    Args:
        unet: A `diffusers.UNet2DConditionModel`.
        vae: A `diffusers.AutoencoderKL`.
        text_encoder: A `transformers.CLIPTextModel`.
        tokenizer: A `transformers.CLIPTokenizer`.
        scheduler: A diffusers scheduler.
        text_encoder_2: A `transformers.CLIPTextModelWithProjection`.
        tokenizer_2: A `transformers.CLIPTokenizer`.
        zeros_for_empty: Whether the empty text is embedded as zeros, as in the training of the released models.
    """

    text_encoder_2: Any

    def __init__(
        self,
        unet: UNet,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        text_encoder_2: Any,
        tokenizer_2: Any,
        zeros_for_empty: bool = True,
    ):
        super().__init__(unet, vae, text_encoder, tokenizer, scheduler)
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2.requires_grad_(False).eval(), tokenizer_2
        self.zeros_for_empty = zeros_for_empty
        self._pooled: int = text_encoder_2.config.projection_dim
        self._side = self.resolution  # kept, because a base of the score network loses its autoencoder

    @staticmethod
    def _load_parts(path: str, dtype: torch.dtype, key: str) -> PartsXL:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        found = locate(path, key)
        weights = {"torch_dtype": dtype, "use_safetensors": True}
        unet = load_part(UNet2DConditionModel, found, "unet", key, **weights)
        if unet.config.addition_embed_type != "text_time":
            raise InputError(f"{key}: the U-Net of {path} does not take the conditions of Stable Diffusion XL")
        vae = load_part(AutoencoderKL, found, "vae", key, **weights)
        if dtype == torch.float16 and vae.config.force_upcast:  # the activations of XL's autoencoder overflow
            vae = load_part(AutoencoderKL, found, "vae", key, **(weights | {"torch_dtype": torch.float32}))
        index = json.loads(index_of(found, key).read_text())
        return PartsXL(
            unet,
            vae,
            load_part(CLIPTextModel, found, "text_encoder", key, **weights),
            load_part(CLIPTokenizer, found, "tokenizer", key),
            load_part(DDIMScheduler, found, "scheduler", key),
            load_part(CLIPTextModelWithProjection, found, "text_encoder_2", key, **weights),
            load_part(CLIPTokenizer, found, "tokenizer_2", key),
            index.get("force_zeros_for_empty_prompt", True),
        )

    def text_encoders(self) -> list[nn.Module]:
        """Return both text encoders."""
        return [self.text_encoder, self.text_encoder_2]

    def _encode_text(self, text: str) -> Float[Tensor, "1 tokens_and_pooled features"]:
        """Embed one text with both text encoders.

        The tokens are the outputs of the last layer but one of both encoders, side by side.
        """
        first = self.text_encoder(self._tokenize(self.tokenizer, text), output_hidden_states=True)
        second = self.text_encoder_2(self._tokenize(self.tokenizer_2, text), output_hidden_states=True)
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = second.text_embeds
        if not text and self.zeros_for_empty:
            tokens, pooled = torch.zeros_like(tokens), torch.zeros_like(pooled)
        row = nn.functional.pad(pooled, (0, tokens.shape[-1] - self._pooled))
        return torch.cat([tokens, row[:, None]], dim=1)

    def conditions(self, text: TextEmbeddings, c2w: Tensor | None = None) -> dict[str, Any]:
        """Return the named inputs of the U-Net; see `LatentDiffusion.conditions`.

        Size, crop and target size are those of a whole image at the model's resolution.
        """
        text = text.to(self.dtype)
        sizes = text.new_full((len(text), 6), self._side)
        sizes[:, 2:4] = 0
        added = {"text_embeds": text[:, -1, : self._pooled], "time_ids": sizes}
        return {"encoder_hidden_states": text[:, :-1], "added_cond_kwargs": added}

    def keep_only_unet(self, texts: list[str]) -> None:
        """Free the autoencoder and the text encoders; see `LatentDiffusion.keep_only_unet`."""
        super().keep_only_unet(texts)
        self.text_encoder_2 = None
