"""Publishing of trained models in the StableDiffusionPipeline layout, as safetensors in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prolific_core.files import write_atomically, write_json
from prolific_core.toybox.training import text

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


def publish(folder: Path, *, vae: Any, unet: Any, text_encoder: Any, scheduler: Any) -> None:
    """Write a model folder that a StableDiffusionPipeline can load.

    The models are converted to half precision in place.

    Args:
        folder: Folder to write to.
        vae: AutoencoderKL.
        unet: UNet2DConditionModel.
        text_encoder: CLIPTextModel.
        scheduler: DDIMScheduler.
    """
    import diffusers

    for name, model in (("vae", vae), ("unet", unet)):
        model.half().save_pretrained(folder / name)
        clean_config(folder / name)
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
        indent=1,
    )


def save_half(model: Any, folder: Path) -> None:
    """Write a transformers model in half precision, with a configuration that loads it in float32.

    Args:
        model: Model, which is converted to half precision in place.
        folder: Folder to write to.
    """
    model.half().save_pretrained(folder, safe_serialization=True)
    clean_config(folder, dtype="float32")  # The default, "auto", would load half precision, which is slow on a CPU.


def clean_config(folder: Path, dtype: str | None = None) -> None:
    """Remove from a model's config.json the path that the model was loaded from, and set its data type.

    Args:
        folder: Folder of the model.
        dtype: Data type in which transformers loads the model, or None to leave it as it is.
    """
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if isinstance(part, dict):
            part.pop("_name_or_path", None)
            if dtype:
                part.pop("torch_dtype", None)
                part["dtype"] = dtype
    write_json(folder / "config.json", config, indent=1)


def write_model_card(folder: Path, name: str, revisions: dict[str, str | None]) -> None:
    """Write MODEL_CARD.md.

    The model card lists the revision of this project at which the training of each part began.

    Args:
        folder: Model folder.
        name: Name of the prior.
        revisions: Revision of each part, or None if it is unknown.
    """
    rows = [f"| {part} | {revision or 'unknown'} |" for part, revision in revisions.items()]
    lines = [
        f"# The prior `{name}`",
        "",
        f"Trained by `prolific prior train {name}` with the parameters in `priors/{name}/params.yaml`.",
        "",
        "| part | training began at revision |",
        "|---|---|",
        *rows,
    ]
    write_atomically(folder / "MODEL_CARD.md", ("\n".join(lines) + "\n").encode())
