"""Checks before a run: mistakes in parameters, and the damage that kills, crashes and bad disks leave behind.

Damage is repaired where DVC or the stage then makes the same bytes again from what is left, with one line on stderr.
What only a user can decide is an InputError that describes what to do.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from flows.orchestration import run_status
from flows.prompt_store import sets
from prolific_core.errors import InputError
from prolific_core.prior.location import locate
from tasks.runtime.project import STAGES, Project, ResolvedPrompt


def choose(project: Project, names: list[str], only_failed: bool = False) -> list[str]:
    """Return the ids of the prompts that a sweep over names runs, each of them checked."""
    ids = sets.select(project, names)
    if not ids:
        raise InputError('no prompts on file; make one: prolific prompts add "a red mug"')
    if only_failed:
        ids = [id for id in ids if run_status.is_unfinished(project, id)]
    for id in ids:
        check(project, id)
    return ids


def check(project: Project, id: str) -> ResolvedPrompt:
    """Read a prompt and check all that its run reads, in milliseconds.

    Changes into the project's folder, where relative paths in the parameters start.
    """
    os.chdir(project.root)
    prompt = project.resolve(id)
    locate(prompt.config.prior.path)
    repair(project, id)
    return prompt


def repair(project: Project, id: str) -> None:
    """Repair DVC's lock file and locks and remove damaged checkpoints of a prompt; report lost objects of the cache."""
    locked = _lock_file(project, project.prompt_folder(id) / "dvc.lock")
    _rwlock(project)
    for stage in STAGES:
        _cached(project, f"runs/{id}/{stage}", locked.get(stage) or {})
        for path in sorted(project.stage_state(id, stage).glob("checkpoints/*/*.safetensors")):
            _checkpoint(project, path)


def is_complete(path: Path) -> bool:
    """Return whether a safetensors file has the length that its header implies, without torch."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= path.stat().st_size:
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
    return path.stat().st_size == 8 + length + max(ends, default=0)


def _lock_file(project: Project, path: Path) -> dict:
    """Return the stages in a dvc.lock, which DVC does not write atomically: a kill may leave it empty or truncated."""
    if not path.is_file():
        return {}
    text, shown = path.read_text(errors="replace"), path.relative_to(project.root)
    if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
        raise InputError(f"{shown} has a merge conflict; delete it: DVC makes it again, and finished stages do not run")
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        lock: Any = COMPILED_LOCKFILE_SCHEMA(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        stages = lock.get("stages") or {}
        entries = [entry for stage in stages.values() for entry in (*stage.get("deps", []), *stage.get("outs", []))]
        if not all(re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(entry.get("md5"))) for entry in entries):
            raise Invalid("truncated within an entry")
        return stages
    except (yaml.YAMLError, Invalid):
        path.unlink()
        _report(f"{shown} was damaged: removed; DVC makes it again, and finished stages do not run")
        return {}


def _rwlock(project: Project) -> None:
    """Remove the entries of killed processes from DVC's list of paths in use, which may be damaged too."""
    path = project.root / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return
    from dvc.lock import LockError, make_lock

    shown = path.relative_to(project.root)
    try:
        with make_lock(f"{path}.lock", tmp_dir=str(path.parent)):  # while no process writes it
            try:
                entries = json.loads(path.read_text())
                stale = [holder for holder in _holders(entries) if not _is_dvc(int(holder["pid"]))]
            except (ValueError, KeyError, TypeError, AttributeError):
                path.unlink()
                _report(f"{shown} was damaged: removed")
                return
            if not stale:
                return
            writers, readers = entries.get("write", {}), entries.get("read", {})
            entries["write"] = {place: holder for place, holder in writers.items() if holder not in stale}
            entries["read"] = {
                place: [holder for holder in holders if holder not in stale] for place, holders in readers.items()
            }
            path.write_text(json.dumps(entries))
    except LockError:
        return  # another DVC is writing the file


def _holders(entries: dict) -> list[dict]:
    readers = entries.get("read", {}).values()
    return [*entries.get("write", {}).values(), *(holder for holders in readers for holder in holders)]


def _is_dvc(pid: int) -> bool:
    """Return whether a process exists and is DVC: after a restart of the machine another one may have its number."""
    import psutil

    try:
        return any("dvc" in part for part in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # the process of another user


def _cached(project: Project, out: str, stage: dict) -> None:
    """Report a lost object of DVC's cache: DVC then runs the stage again, which is correct but may take hours."""
    cache = project.root / ".dvc" / "cache" / "files" / "md5"
    if not cache.is_dir():
        return
    for entry in stage.get("outs", []):
        lost = [md5 for md5 in _objects(cache, entry["md5"]) if not _object(cache, md5).is_file()]
        if entry.get("path") == out and lost:
            _report(f"DVC's cache has lost {out}, so that stage runs again (not if `dvc pull` gets it from a remote)")


def _objects(cache: Path, md5: str) -> list[str]:
    """Return the objects that an output consists of, as far as they can be read."""
    if not md5.endswith(".dir"):
        return [md5]
    try:
        return [md5, *(entry["md5"] for entry in json.loads(_object(cache, md5).read_text()))]
    except (OSError, ValueError, KeyError, TypeError):
        return [md5]


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _checkpoint(project: Project, path: Path) -> None:
    if not is_complete(path):
        path.unlink()
        _report(f"{path.relative_to(project.root)} was damaged: removed; the stage starts again")


def _report(text: str) -> None:
    print(f"prolific: {text}", file=sys.stderr, flush=True)
