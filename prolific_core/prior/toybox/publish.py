"""Write the trained models as they ship: python -m prolific_core.prior.toybox.publish

The StableDiffusionPipeline layout, fp16 safetensors, in a new folder that then
takes the old one's place part by part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from . import autoencoder, classifier, diffusion, scorer, text
from .files import write_json
from .params import ROOT, WEIGHTS

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


def publish_pipeline(root: Path, folder: Path) -> None:
    """vae, unet, text_encoder, tokenizer, scheduler and model_index.json."""
    import diffusers

    unet, text_encoder, tok, step = diffusion.load_average(root)
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    autoencoder.load(root).half().save_pretrained(new / "vae")
    unet.half().save_pretrained(new / "unet")
    scorer.save_half(text_encoder, new / "text_encoder")
    text.save(tok, new / "tokenizer")
    diffusion.build_scheduler().save_pretrained(new / "scheduler")
    write_json(new / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None], "feature_extractor": [None, None],
        "image_encoder": [None, None], "requires_safety_checker": False})
    write_json(new / "training.json", {"diffusion_steps": step, "batch": diffusion.DIFFUSION.batch})
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*PARTS, "model_index.json", "training.json"):
        old = folder / name
        if old.is_dir():
            shutil.rmtree(old)
        os.replace(new / name, old)
    new.rmdir()


def size_mb(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args(argv)
    publish_pipeline(args.root, args.out)
    for part in (classifier, scorer):
        name = part.__name__.rsplit(".", 1)[1]
        if (args.root / name / "state.pt").exists():
            part.publish(args.root, args.out / name)
    print(json.dumps({"folder": str(args.out), "size_mb": round(size_mb(args.out), 2)}))


if __name__ == "__main__":
    main()
