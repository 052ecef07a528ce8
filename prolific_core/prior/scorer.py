"""How well an image fits a text, by a model in the CLIPModel layout."""

from pathlib import Path

import torch
from torch import Tensor, nn

from prolific_core.errors import InputError
from prolific_core.prior.location import locate


class Scorer:
    """Cosine similarity of image and text embeddings (CLIP, Radford et al., 2103.00020)."""

    def __init__(self, model, tokenizer, mean: list[float], std: list[float]):
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.mean, self.std = (torch.tensor(x)[None, :, None, None] for x in (mean, std))

    @classmethod
    def load(cls, path: str | None, prior: str) -> "Scorer | None":
        """From a CLIP folder or hub id; without one, the `scorer` folder beside the prior's, or None."""
        from transformers import CLIPModel, CLIPTokenizer

        if path is None:
            path = str(Path(locate(prior)) / "scorer")
            if not Path(path).is_dir():
                return None
        try:
            model, tokenizer = CLIPModel.from_pretrained(path), CLIPTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise InputError(f"evaluate.scorer: cannot load {path}: {str(error).splitlines()[0]}") from None
        return cls(model, tokenizer, *_normalisation(Path(path)))

    @torch.no_grad()
    def similarity(self, images: Tensor, texts: list[str]) -> Tensor:
        """Cosine similarities (B, len(texts)) in [-1, 1] of images (B, 3, H, W) in [0, 1]."""
        side = self.model.config.vision_config.image_size
        if images.shape[-1] != side:
            images = nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        out = self.model(pixel_values=(images - self.mean) / self.std, **tokens)
        return nn.functional.normalize(out.image_embeds, dim=-1) @ nn.functional.normalize(out.text_embeds, dim=-1).T


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation from preprocessor_config.json, else OpenAI CLIP's."""
    import json

    file = folder / "preprocessor_config.json"
    if file.is_file():
        values = json.loads(file.read_text())
        return values["image_mean"], values["image_std"]
    return [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
