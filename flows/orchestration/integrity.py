"""Comparison of finished outputs, and of their objects in DVC's cache, with the digests recorded when they were made.

DVC trusts the modification time of a file, and trusts its cache. A disk error or a careless edit can therefore change a
result without any stage running again.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.manifest import damaged_files, manifest_files
from tasks.runtime.project import STAGES, Project

CACHE = Path(".dvc", "cache", "files", "md5")  # relative to the root


@dataclass(frozen=True)
class Checked:
    """A file that was compared with its digest.

    `path` is relative to the root. `problem` is empty if the file is intact.
    """

    path: Path
    problem: str


def verify(project: Project, id: str, locked: dict) -> Iterator[Checked]:
    """Compare all files of a prompt with their digests, without changing any of them.

    Args:
        project: The project.
        id: The prompt's id.
        locked: The stages in the prompt's dvc.lock.

    Yields:
        Every file of the outputs and every object in DVC's cache that belongs to them.
    """
    for stage in STAGES:
        folder = project.output(id, stage)
        if folder.is_dir():
            bad = damaged_files(folder)
            for name in sorted({*manifest_files(folder), *bad}):
                yield Checked((folder / name).relative_to(project.root), bad.get(name, ""))
        for md5 in objects(project, locked.get(stage) or {}):
            path = object_path(project, md5)
            if path.is_file():
                problem = "" if is_intact(path, md5) else f"differs from its name; belongs to runs/{id}/{stage}"
                yield Checked(path.relative_to(project.root), problem)


def objects(project: Project, locked: dict) -> list[str]:
    """Return the hashes of all objects in DVC's cache that belong to a stage's output.

    For a folder, one object is the list of its files. If the list cannot be read, only its hash is returned.
    """
    found = []
    for entry in locked.get("outs", []):
        found.append(entry["md5"])
        if entry["md5"].endswith(".dir"):
            try:
                found += [one["md5"] for one in json.loads(object_path(project, entry["md5"]).read_bytes())]
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return found


def object_path(project: Project, md5: str) -> Path:
    return project.root / CACHE / md5[:2] / md5[2:]


def is_intact(path: Path, md5: str) -> bool:
    """Return whether the content of an object in DVC's cache has the hash that is its name."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == md5.removesuffix(".dir")
