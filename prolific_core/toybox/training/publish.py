"""Write trained models as they ship: the StableDiffusionPipeline layout, fp16 safetensors."""

from __future__ import annotations

from pathlib import Path

from prolific_core.toybox.files import write_json
from prolific_core.toybox.training import text
from prolific_core.toybox.training.scorer import save_half

CLASSES = {
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
}


def publish(folder: Path, *, vae, unet, text_encoder, scheduler) -> None:
    """vae, unet, text_encoder, tokenizer, scheduler and model_index.json in a folder; the models become fp16."""
    import diffusers

    vae.half().save_pretrained(folder / "vae")
    unet.half().save_pretrained(folder / "unet")
    save_half(text_encoder, folder / "text_encoder")
    text.save(text.tokenizer(), folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            **CLASSES,
            "requires_safety_checker": False,
        },
    )
