"""What kills, crashes and bad disks leave behind: noticed before work starts, repaired where that loses nothing.

Safe here means: DVC or the stage makes the same bytes again from what is left. A repair is one line on
stderr; what only a user can decide is an InputError that says how.
"""

import json
import re
import sys
from pathlib import Path

import yaml

from prolific_core.errors import InputError
from tasks.runtime.project import STAGES, Project


def check(project: Project, id: str) -> None:
    """Look at what a run of a prompt reads: DVC's lock file and locks, its cache, checkpoints. Milliseconds."""
    locked = _lock_file(project, project.prompt_folder(id) / "dvc.lock")
    _rwlock(project)
    for stage in STAGES:
        _cached(project, f"runs/{id}/{stage}", locked.get(stage) or {})
        for path in sorted(project.stage_state(id, stage).glob("checkpoints/*/*.safetensors")):
            _checkpoint(project, path)


def whole_checkpoint(path: Path) -> bool:
    """Whether a safetensors file has the length that its header tells; read without torch."""
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
    """The stages in a dvc.lock. DVC does not write it in one go: a kill may leave it empty or cut."""
    if not path.is_file():
        return {}
    text, shown = path.read_text(errors="replace"), path.relative_to(project.root)
    if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
        raise InputError(f"{shown} has a merge conflict; delete it, and DVC makes it again: finished stages do not run")
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        stages = (
            COMPILED_LOCKFILE_SCHEMA(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))).get("stages") or {}
        )
        entries = [entry for stage in stages.values() for entry in (*stage.get("deps", []), *stage.get("outs", []))]
        if not all(re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(entry.get("md5"))) for entry in entries):
            raise Invalid("cut within an entry")
        return stages
    except (yaml.YAMLError, Invalid):
        path.unlink()
        _say(f"{shown} was not whole: removed; DVC makes it again, and finished stages do not run")
        return {}


def _rwlock(project: Project) -> None:
    """DVC's list of who uses which path: not written in one go either, and never unlocked by a killed process."""
    path = project.root / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return
    from dvc.lock import LockError, make_lock

    shown = path.relative_to(project.root)
    try:
        with make_lock(f"{path}.lock", tmp_dir=str(path.parent)):  # nobody is writing it
            try:
                entries = json.loads(path.read_text())
                stale = [who for who in _holders(entries) if not _is_dvc(int(who["pid"]))]
            except (ValueError, KeyError, TypeError, AttributeError):
                path.unlink()
                _say(f"{shown} was not whole: removed")
                return
            if not stale:
                return
            entries["write"] = {where: who for where, who in entries.get("write", {}).items() if who not in stale}
            entries["read"] = {
                where: [one for one in who if one not in stale] for where, who in entries.get("read", {}).items()
            }
            path.write_text(json.dumps(entries))
    except LockError:
        return  # another DVC is at it, so it is alive and well


def _holders(entries: dict) -> list[dict]:
    return [*entries.get("write", {}).values(), *(one for who in entries.get("read", {}).values() for one in who)]


def _is_dvc(pid: int) -> bool:
    """Whether a process lives and is DVC: after a restart of the machine its number may be another's."""
    import psutil

    try:
        return any("dvc" in part for part in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # not ours to look at


def _cached(project: Project, out: str, stage: dict) -> None:
    """DVC runs a stage again whose cached output is lost: correct, but it may take hours."""
    cache = project.root / ".dvc" / "cache" / "files" / "md5"
    if not cache.is_dir():
        return
    for entry in stage.get("outs", []):
        lost = [md5 for md5 in _objects(cache, entry["md5"]) if not _object(cache, md5).is_file()]
        if entry.get("path") == out and lost:
            _say(f"DVC's cache has lost {out}, so that stage runs again (not if `dvc pull` gets it from a remote)")


def _objects(cache: Path, md5: str) -> list[str]:
    """The objects that an output consists of, as far as they can be read."""
    if not md5.endswith(".dir"):
        return [md5]
    try:
        return [md5, *(entry["md5"] for entry in json.loads(_object(cache, md5).read_text()))]
    except (OSError, ValueError, KeyError, TypeError):
        return [md5]


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _checkpoint(project: Project, path: Path) -> None:
    if not whole_checkpoint(path):
        path.unlink()
        _say(f"{path.relative_to(project.root)} was not whole: removed; the stage starts again")


def _say(text: str) -> None:
    print(f"prolific: {text}", file=sys.stderr, flush=True)
