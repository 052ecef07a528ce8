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
        config = json.loads((folder / name / "config.json").read_text())
        config.pop("_name_or_path", None)  # the folder that the model was loaded from, on this machine
        write_json(folder / name / "config.json", config, indent=1)
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
    config = json.loads((folder / "config.json").read_text())
    # The default dtype, "auto", would load the model in half precision, which is slow on a CPU.
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if isinstance(part, dict):
            part.pop("torch_dtype", None)
            part["dtype"] = "float32"
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
