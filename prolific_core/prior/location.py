"""Where a prior is. No torch here: a path is checked before anything heavy is loaded."""

from pathlib import Path

from prolific_core.errors import InputError

TOYBOX = Path(__file__).parents[1] / "toybox" / "weights"


def locate(path: str) -> str:
    """`toybox` is the packaged model; an existing folder is itself; anything else is a hub id.

    Raises InputError for what is plainly a folder that is not there, or one without a model in it.
    """
    folder = TOYBOX if path == "toybox" else Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise InputError(
                f"prior.path: {folder} has no model_index.json; it needs the StableDiffusionPipeline layout"
            )
        return str(folder)
    if path == "toybox":
        raise InputError(
            f"prior.path: the Toybox weights are missing at {folder}; reinstall, or train them (README, 'The Toybox')"
        )
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise InputError(f"prior.path: no such folder: {path}; give 'toybox', a folder, or a hub id such as owner/name")
    return path
