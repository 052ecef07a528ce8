"""Loading of the parts of a latent diffusion model from a folder, a single file or the Hugging Face hub."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from prolific_core.errors import InputError, shorten
from prolific_core.prior.location import locate


class Parts(NamedTuple):
    """Parts of a latent diffusion model, as classes of diffusers and transformers.

    Attributes:
        unet: `UNet2DConditionModel`.
        vae: `AutoencoderKL`.
        text_encoder: `CLIPTextModel`.
        tokenizer: `CLIPTokenizer`.
        scheduler: `DDIMScheduler`.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any


def data_type(name: str, device: torch.device | str) -> torch.dtype:
    """Return a data type by its name.

    Args:
        name: `float32`, `float16`, `bfloat16` or `auto`, which is float32 on the CPU, bfloat16 on a GPU that computes
            with it, and float16 on older GPUs.
        device: Device of the weights.
    """
    if name != "auto":
        return getattr(torch, name)
    if torch.device(device).type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_parts(
    path: str, dtype: torch.dtype, key: str = "prior.path", conditions: tuple[str | None, ...] = (None,)
) -> Parts:
    """Load all parts of a model. Nothing is unpickled.

    Args:
        path: `toybox`, a folder, a `.safetensors` file of a whole model, or a model id on the Hugging Face hub.
        dtype: Data type of the weights.
        key: Name of the setting, for error messages.
        conditions: Allowed types of the U-Net's class embedding, by which multi-view models take cameras.

    Returns:
        The parts, on the CPU.

    Raises:
        InputError: A part cannot be loaded, or the model is of another kind.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextModel, CLIPTokenizer

    found = locate(path, key)
    if Path(found).is_file():
        return _load_file(Path(found), dtype, key)
    weights = {"torch_dtype": dtype, "use_safetensors": True}
    unet = load_part(UNet2DConditionModel, found, "unet", key, **weights)
    if unet.config.addition_embed_type not in (None, "text") or unet.config.class_embed_type not in conditions:
        raise InputError(f"{key}: the U-Net of {path} needs more conditions than a text; load it with load_prior")
    return Parts(
        unet,
        load_part(AutoencoderKL, found, "vae", key, **weights),
        load_part(CLIPTextModel, found, "text_encoder", key, **weights),
        load_part(CLIPTokenizer, found, "tokenizer", key),
        load_part(DDIMScheduler, found, "scheduler", key),
    )


def load_part(kind: Any, path: str, subfolder: str, key: str, **options: Any) -> Any:
    """Load one part with `from_pretrained`, from its usual files or, if there are none, from the variant `fp16`.

    Args:
        kind: Class of diffusers or transformers.
        path: Folder or model id.
        subfolder: Name of the part.
        key: Name of the setting, for error messages.
        options: Further arguments of `from_pretrained`, for parts with weights.

    Returns:
        The part, on the CPU.

    Raises:
        InputError: The part cannot be loaded.
    """
    variants = [{}, {"variant": "fp16"}] if options else [{}]
    reasons = []
    for variant in variants:
        try:
            return kind.from_pretrained(path, subfolder=subfolder, **options, **variant)
        except (OSError, ValueError) as error:
            reasons.append(str(error).strip().splitlines()[0])
    raise InputError(f"{key}: cannot load {subfolder} of {path}: {shorten(reasons[0])}")


def _load_file(file: Path, dtype: torch.dtype, key: str) -> Parts:
    """Load a checkpoint in the original format with diffusers.

    The configurations and the tokenizer are not in such a file. They are taken from the file's folder if it has the
    layout of a pipeline, and from the hub otherwise.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    beside = {"config": str(file.parent)} if (file.parent / "model_index.json").is_file() else {}
    try:
        loaded: Any = StableDiffusionPipeline.from_single_file(
            str(file), torch_dtype=dtype, safety_checker=None, **beside
        )
    except Exception as error:  # diffusers raises errors of many types for files that it cannot convert
        reason = shorten(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
        raise InputError(
            f"{key}: cannot load {file}: {reason}; a folder with model_index.json needs no conversion and no network"
        ) from None
    scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    return Parts(loaded.unet, loaded.vae, loaded.text_encoder, loaded.tokenizer, scheduler)
