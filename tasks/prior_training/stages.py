"""Stages that train a prior: render, autoencoder, text, diffusion, scorer, classifier and model.

Each stage is a function that writes its files to `job.output` and returns the metrics of the result.
"""

import os
import shutil

from tasks.prior_training.job import PriorStage
from tasks.runtime import records


def render(job: PriorStage) -> dict:
    """Render the training and held-out images and save them in shards."""
    from prolific_core.toybox.training import shards

    # Shards are written to the checkpoint folder, so finished shards are kept if the process is killed.
    folder = job.checkpoint / "shards"
    shards.render(folder, job.section, job.progress)
    for path in sorted(folder.iterdir()):
        # Link the file instead of moving it, so the renders are not lost if the process is killed.
        os.link(path, job.output / path.name)
    return {"images": job.section.images, "heldout_images": job.section.heldout}


def autoencoder(job: PriorStage) -> dict:
    """Train the autoencoder and encode all training images."""
    from prolific_core.toybox.training import autoencoder as training
    from prolific_core.toybox.training.shards import heldout_images

    shards = job.input("render")
    vae = training.train(shards, job.section, job.checkpoint / "state.safetensors", job.observe, job.show_samples)
    vae.save_pretrained(job.output / "vae")
    training.encode(vae, shards, job.output / "latents", job.progress)
    return {"psnr_db": training.evaluate(vae, heldout_images(count=256)[0])}


def text(job: PriorStage) -> dict:
    """Train the text encoder on the captions."""
    from prolific_core.toybox.training import text_encoder as training

    model = training.train(job.input("render"), job.section, job.checkpoint / "state.safetensors", job.observe)
    model.save_pretrained(job.output)
    return {"steps": job.section.steps}


def diffusion(job: PriorStage) -> dict:
    """Train the U-Net on the latents and the captions."""
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
    from transformers import CLIPTextModel

    from prolific_core.toybox.training import diffusion as training

    encoded = job.input("autoencoder")
    prior = training.train(
        job.input("render"),
        encoded / "latents",
        AutoencoderKL.from_pretrained(encoded / "vae"),
        CLIPTextModel.from_pretrained(job.input("text")).eval(),
        job.section,
        job.checkpoint / "state.safetensors",
        job.observe,
        job.show_samples,
    )
    for part in ("unet", "scheduler"):
        getattr(prior, part).save_pretrained(job.output / part)
    return {"steps": job.section.steps}


def scorer(job: PriorStage) -> dict:
    """Train the scorer on the renders and their captions."""
    from transformers import CLIPTextModel

    from prolific_core.toybox.training import scorer as training

    text_encoder = CLIPTextModel.from_pretrained(job.input("text")).eval()
    state = job.checkpoint / "state.safetensors"
    model = training.train(job.input("render"), text_encoder, job.section, state, job.observe)
    training.publish(model, job.output)
    return {"steps": job.section.steps}


def classifier(job: PriorStage) -> dict:
    """Train the classifier that the metrics use."""
    from prolific_core.toybox.training import classifier as training

    network = training.train(job.input("render"), job.section, job.checkpoint / "state.safetensors", job.observe)
    training.publish(network, job.section, job.output)
    return {"steps": job.section.steps}


def model(job: PriorStage) -> dict:
    """Combine the trained parts into one model folder that `prior.path` accepts."""
    from diffusers import (
        AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]
        DDIMScheduler,  # pyright: ignore[reportPrivateImportUsage]
        UNet2DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
    )
    from transformers import CLIPTextModel

    from prolific_core.files import write_json
    from prolific_core.toybox.training.publish import publish, write_model_card

    diffusion = job.input("diffusion")
    publish(
        job.output,
        vae=AutoencoderKL.from_pretrained(job.input("autoencoder") / "vae"),
        unet=UNet2DConditionModel.from_pretrained(diffusion / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(job.input("text")),
        scheduler=DDIMScheduler.from_pretrained(diffusion / "scheduler"),
    )
    # `prolific prior check` renders the truth with the same parameters.
    write_json(job.output / "render.json", job.runs.config.render.model_dump(mode="json"), indent=1)
    for part in ("scorer", "classifier"):
        ignored = shutil.ignore_patterns("manifest.json", "metrics.json")
        shutil.copytree(job.input(part), job.output / part, ignore=ignored)
    started = {part: records.first(job.runs.state(part) / "records.jsonl") or {} for part in job.inputs}
    write_model_card(job.output, job.runs.name, {part: start.get("revision") for part, start in started.items()})
    return {"size_mb": sum(path.stat().st_size for path in job.output.rglob("*") if path.is_file()) / 1e6}
