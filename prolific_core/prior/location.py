"""Look-up and checks of a model's files, without importing torch."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from prolific_core.config import Config
from prolific_core.errors import InputError, shorten

#: Folder of the packaged weights.
TOYBOX = Path(__file__).parents[1] / "toybox" / "weights"

SUPPORTED = (
    "supported are Stable Diffusion 1.x, 2.x and XL in the layout of diffusers, and multi-view models (docs/gpu.md)"
)


def locate(path: str, key: str = "prior.path") -> str:
    """Return the folder, file or model id that a configured path refers to.

    Args:
        path: `toybox` for the packaged model, a folder, a `.safetensors` file of a whole model, or a model id on the
            Hugging Face hub.
        key: Name of the setting, for error messages.

    Returns:
        The path of an existing folder or file, or the model id.

    Raises:
        InputError: The path refers to a folder or file that is missing, or that contains no model of a supported kind.
    """
    folder = TOYBOX if path == "toybox" else Path(path).expanduser()
    if folder.is_dir():
        index = folder / "model_index.json"
        if not index.is_file():
            raise InputError(f"{key}: {folder} must contain model_index.json, as in the StableDiffusionPipeline layout")
        _kind(index, path, key)
        return str(folder)
    if path == "toybox":
        raise InputError(
            f"{key}: the Toybox weights are missing in {folder}; reinstall, or train them (README, 'The Toybox')"
        )
    if folder.is_file():
        _check_single_file(folder, key)
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise InputError(f"{key}: no such folder: {path}; give 'toybox', a folder, or a hub id such as owner/name")
    return path


def index_of(found: str, key: str) -> Path:
    """Return the local path of a model's model_index.json, which is downloaded if necessary.

    Args:
        found: A folder or model id; see `locate`.
        key: Name of the setting, for error messages.

    Raises:
        InputError: The model cannot be found.
    """
    folder = Path(found).expanduser()
    return folder / "model_index.json" if folder.is_dir() else Path(_on_hub(found, key, "model_index.json"))


def kind_of(path: str, key: str = "prior.path") -> str:
    """Return the kind of a model.

    The kinds are `sd` for Stable Diffusion 1.x and 2.x, `xl` for Stable Diffusion XL, and `multi-view` for a model in
    the manner of MVDream.

    Args:
        path: A path as in `locate`.
        key: Name of the setting, for error messages.

    Raises:
        InputError: The model is missing or of another kind.
    """
    found = locate(path, key)
    return "sd" if Path(found).is_file() else _kind(index_of(found, key), path, key)


def check_models(config: Config) -> None:
    """Check that all models of a run exist, so that a run of hours does not end because its last stage finds none.

    Args:
        config: Configuration of the run, with paths relative to the current folder.

    Raises:
        InputError: A model is missing or of another kind. The message names the setting.
    """
    for key, path in _pipelines(config):
        if locate(path, key) == path and not Path(path).expanduser().exists():
            _kind(index_of(path, key), path, key)
    scorer = config.evaluate.scorer
    if scorer is not None and not (Path(scorer).expanduser() / "config.json").is_file():
        if Path(scorer).expanduser().exists() or scorer.startswith((".", "/", "~")) or scorer.count("/") != 1:
            raise InputError(
                f"evaluate.scorer: no CLIP model in {scorer}: it must be a folder with config.json or a hub id"
            )
        _on_hub(scorer, "evaluate.scorer", "config.json")


def _pipelines(config: Config) -> Iterator[tuple[str, str]]:
    yield "prior.path", config.prior.path
    for name in ("nerf", "geometry", "texture"):
        if base := getattr(config, name).guidance.score.base:
            yield f"{name}.guidance.score.base", base


@cache
def _on_hub(id: str, key: str, file: str) -> str:
    """Return the local copy of a small file of a model on the hub, which is downloaded if necessary."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    if isinstance(kept := try_to_load_from_cache(id, file), str):
        return kept
    try:
        HfApi().model_info(id, timeout=10)  # unlike a download, this gives up at once
        return hf_hub_download(id, file)
    except Exception as error:  # the types depend on the version and its HTTP client
        reason = shorten(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
        raise InputError(
            f"{key}: cannot find {id} on the Hugging Face hub or among its downloads ({reason}); give the folder of "
            "your own copy"
        ) from None


def _kind(index: Path, path: str, key: str) -> str:
    """Return the kind of the model that a model_index.json describes, or raise an InputError if it is not supported."""
    try:
        parts: dict[str, Any] = json.loads(index.read_text())
        unet = parts.get("unet", [None, None])[1]
        encoders = [parts[name][1] for name in ("text_encoder", "text_encoder_2") if name in parts]
    except (ValueError, AttributeError, LookupError, TypeError):
        raise InputError(f"{key}: {index} is damaged; copy the model again") from None
    if "transformer" in parts or None in encoders or unet not in (None, "UNet2DConditionModel"):
        raise InputError(f"{key}: {path} is a {parts.get('_class_name', 'model of another kind')}; {SUPPORTED}")
    if str(parts.get("_class_name")).startswith("MVDream"):
        return "multi-view"
    return "xl" if "text_encoder_2" in parts else "sd"


def _check_single_file(file: Path, key: str) -> None:
    """Raise an InputError if a file does not hold all parts of a supported model in the original format."""
    if file.suffix != ".safetensors":
        raise InputError(f"{key}: {file} must be a .safetensors file, because other formats can run code")
    try:
        with open(file, "rb") as opened:
            names = json.loads(opened.read(int.from_bytes(opened.read(8), "little"))).keys()
    except (ValueError, OSError, MemoryError, OverflowError, AttributeError):
        raise InputError(f"{key}: {file} is damaged; copy the model again") from None
    if any(name.startswith("conditioner.embedders.") for name in names):
        raise InputError(
            f"{key}: {file} is a Stable Diffusion XL checkpoint, which must be a folder in the diffusers layout"
        )
    for part in ("model.diffusion_model.input_blocks.", "first_stage_model.", "cond_stage_model."):
        if not any(name.startswith(part) for name in names):
            raise InputError(f"{key}: {file} has no tensors '{part}*'; {SUPPORTED}, in one file with all parts")
