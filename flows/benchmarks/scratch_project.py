"""Scratch copies of the project for benchmarks and tests.

A copy contains the code and the parameters, but no outputs and no Git history.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDERS = ("prolific_core", "tasks", "flows", "presets", "systems")
FILES = (
    "params.yaml",
    "dvc.yaml",
    "prefect.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots/page.html",
    ".state/dvc/repo/.gitignore",
)
# The user's values of these environment variables would affect commands in the copy.
OWN = (
    "PROLIFIC_ROOT",
    "PROLIFIC_TRACKER",
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_HOME",
    "DVC_STAGE",
)


def copy(root: Path, folder: Path, *, prompts: tuple[str, ...] = (), weights: bool = False) -> Path:
    """Copy the project at `root` and the given prompts to `folder`, and return `folder`.

    The prior's weights are copied only if `weights` is true.
    """
    ignore = shutil.ignore_patterns("__pycache__", *(() if weights else ("weights", "*.safetensors")), "dvc.lock")
    for name in (*FOLDERS, *(f"prompts/{id}" for id in prompts)):
        shutil.copytree(root / name, folder / name, ignore=ignore)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, folder / name)
    (folder / "prompts").mkdir(exist_ok=True)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


def environment() -> dict[str, str]:
    """Return the environment without the variables that would affect commands in the copy."""
    return {name: value for name, value in os.environ.items() if name not in OWN}


def start(folder: Path, *command: str, **settings: str) -> subprocess.Popen:
    """Start `python -m COMMAND` with the copy's modules and capture its output."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**environment(), **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
