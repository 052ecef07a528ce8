"""The root folder of a project, found without reading the project's files."""

import os
from pathlib import Path

from prolific_core.errors import InputError

# SQLite opens databases in paths of up to 512 bytes, and DVC's are up to 80 bytes below the root.
MAX_BYTES = 400


def find_root(start: Path | None = None) -> Path:
    """Find the project in $PROLIFIC_ROOT or, if it is not set, the nearest project that encloses `start`.

    By default, `start` is the current folder. If no enclosing project exists, the clone that contains this file is
    returned. Raises an InputError if there is no project, or if its path is too long for the databases in it.
    """
    if given := os.environ.get("PROLIFIC_ROOT"):
        candidates = [Path(given).expanduser().resolve()]
    else:
        here = (start or _current_folder()).resolve()
        candidates = [here, *here.parents, Path(__file__).resolve().parents[2]]
    for folder in candidates:
        if (folder / "params.yaml").is_file() and (folder / "presets").is_dir():
            if (length := len(os.fsencode(folder))) > MAX_BYTES:
                raise InputError(
                    f"the project's path has {length} bytes, and its databases work in paths of up to {MAX_BYTES}; "
                    "move the clone to a shorter path"
                )
            return folder
    raise InputError(
        f"no project at {candidates[0]}: it must contain params.yaml and presets/; "
        "change to your clone or set PROLIFIC_ROOT to its path"
    )


def preset_names(root: Path) -> list[str]:
    """Return the names of the presets, which are the files in presets/."""
    return sorted(path.stem for path in root.glob("presets/*.yaml"))


def system_names(root: Path) -> list[str]:
    """Return the names of the systems, which are the files in systems/."""
    return sorted(path.stem for path in root.glob("systems/*.yaml"))


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise InputError("the current folder has been deleted; change to another one") from None
