"""Manifest of a job's output: what made it, and the digest of every file, so that damage is found."""

import hashlib
import json
from pathlib import Path

from prolific_core.errors import InputError
from prolific_core.files import write_json
from tasks.runtime.digests import digest

NAME = "manifest.json"


def write(folder: Path, made_by: dict) -> None:
    """Write the manifest of a complete output, with the entries `made_by` and the digests of all files."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    manifest = {**made_by, "files": {path.relative_to(folder).as_posix(): digest(path) for path in paths}}
    write_json(folder / NAME, {**manifest, "digest": _digest_of(manifest)})


def check_output(folder: Path, shown: str, command: str) -> str:
    """Check an output folder and return the digest of its manifest.

    Raises an InputError if a file is missing or has been modified.
    """
    manifest = folder / NAME
    if not manifest.is_file():
        what = "is incomplete" if folder.exists() else "is missing"
        raise InputError(f"{shown} {what}; create it with: {command}")
    for name, problem in damaged_files(folder).items():
        raise InputError(f"{shown}/{name} {problem}; create it again with: {command}")
    return digest(manifest)


def damaged_files(folder: Path) -> dict[str, str]:
    """Return the names of the damaged files of a finished output, and what is wrong with each."""
    try:
        manifest = json.loads((folder / NAME).read_bytes())
        files = dict(manifest["files"])
        seal = manifest.pop("digest", None)  # outputs of version 0.1 have none
        if seal not in (None, _digest_of(manifest)):
            raise ValueError
    except FileNotFoundError:
        return {NAME: "is missing"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {NAME: "is damaged"}
    bad = {}
    for name, expected in files.items():
        if not (folder / name).is_file():
            bad[name] = "is missing"
        elif digest(folder / name) != expected:
            bad[name] = "has been modified"
    return bad


def manifest_files(folder: Path) -> list[str]:
    """Return the names of all files of a finished output, or only that of its manifest if it cannot be read."""
    try:
        return [*json.loads((folder / NAME).read_bytes())["files"], NAME]
    except (OSError, ValueError, KeyError, TypeError):
        return [NAME]


def _digest_of(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
