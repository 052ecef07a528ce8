"""Similarity of images and texts, computed with a `transformers.CLIPModel`."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.prior.location import locate


class Scorer:
    """Scorer that computes the cosine similarity of image and text embeddings (CLIP, Radford et al., arXiv 2103.00020).

    Args:
        model: A `transformers.CLIPModel`, which is frozen in place.
        tokenizer: A `transformers.CLIPTokenizer`.
        mean: Mean of the image channels that the model was trained with.
        std: Standard deviation of these channels.
    """

    def __init__(self, model: Any, tokenizer: Any, mean: list[float], std: list[float]):
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.mean, self.std = (torch.tensor(x)[None, :, None, None] for x in (mean, std))

    @classmethod
    def load(cls, path: str | None, prior: str) -> "Scorer | None":
        """Load a scorer.

        Args:
            path: A CLIP folder or model id. If None, the `scorer` folder inside the prior's folder is used.
            prior: The path of the prior, as in `PriorConfig.path`.

        Returns:
            The scorer, or None if `path` is None and the prior has no scorer.

        Raises:
            InputError: The model cannot be loaded.
        """
        from transformers import CLIPModel, CLIPTokenizer

        if path is None:
            path = str(Path(locate(prior)) / "scorer")
            if not Path(path).is_dir():
                return None
        try:
            model = CLIPModel.from_pretrained(path, use_safetensors=True)  # nothing is unpickled
            tokenizer = CLIPTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise InputError(f"evaluate.scorer: cannot load {path}: {str(error).splitlines()[0]}") from None
        return cls(model, tokenizer, *_normalisation(Path(path)))

    @torch.no_grad()
    def similarity(
        self, images: Float[Tensor, "batch 3 height width"], texts: str | list[str]
    ) -> Float[Tensor, "batch n"]:
        """Return the cosine similarity of every image with every text.

        Args:
            images: Images in [0, 1], which are resized to the model's resolution.
            texts: The n texts, or a single one.

        Returns:
            Similarities in [-1, 1].
        """
        side = self.model.config.vision_config.image_size
        if images.shape[-1] != side:
            images = nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        texts = [texts] if isinstance(texts, str) else texts
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        out = self.model(pixel_values=(images - self.mean) / self.std, **tokens)
        return nn.functional.normalize(out.image_embeds, dim=-1) @ nn.functional.normalize(out.text_embeds, dim=-1).T


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of the model's images.

    They are read from preprocessor_config.json or, if this file is missing, are those of OpenAI's CLIP.
    """
    file = folder / "preprocessor_config.json"
    if file.is_file():
        values = json.loads(file.read_text())
        return values["image_mean"], values["image_std"]
    return [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
