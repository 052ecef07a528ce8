"""Look-up of a prior's files, without importing torch."""

from pathlib import Path

from prolific_core.errors import InputError

#: Folder of the packaged weights.
TOYBOX = Path(__file__).parents[1] / "toybox" / "weights"


def locate(path: str) -> str:
    """Return the folder or model id that a configured path refers to.

    Args:
        path: `toybox` for the packaged model, a folder, or a model id on the Hugging Face hub.

    Returns:
        The path of an existing folder, or the model id.

    Raises:
        InputError: The path refers to a folder that is missing or contains no model.
    """
    folder = TOYBOX if path == "toybox" else Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise InputError(
                f"prior.path: {folder} must contain model_index.json, as in the StableDiffusionPipeline layout"
            )
        return str(folder)
    if path == "toybox":
        raise InputError(
            f"prior.path: the Toybox weights are missing in {folder}; reinstall, or train them (README, 'The Toybox')"
        )
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise InputError(f"prior.path: no such folder: {path}; give 'toybox', a folder, or a hub id such as owner/name")
    return path
