"""Checks before a run for invalid parameters and damaged files.

A killed process, a crash or a disk error may damage a file. If DVC or the stage can recreate the file exactly, it is
removed and a message is printed to stderr. For problems that only the user can solve, an InputError describes the
solution.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from flows.orchestration import integrity, run_status
from flows.prompt_store import create, sets, vocabulary
from prolific_core import checkpoint
from prolific_core.errors import InputError
from prolific_core.files import write_atomically
from prolific_core.prior.location import check_models
from tasks.runtime import machine
from tasks.runtime.manifest import damaged_files
from tasks.runtime.project import STAGES, Project, ResolvedPrompt


def choose(
    project: Project,
    names: list[str],
    only_failed: bool = False,
    report: Callable[[InputError], None] = lambda error: None,
    force: bool = False,
) -> list[str]:
    """Select the prompts of a sweep over `names`, check them and return their ids.

    A prompt that fails its check is selected too, because it must not stop the others: the sweep reports it as failed.
    `report` is called with its InputError, which is raised only if all prompts fail. With `force`, prompts that the
    prior does not know are accepted, which their files record.
    """
    ids = sets.select(project, names)
    if not ids:
        raise InputError('no prompts exist yet; add one: prolific prompts add "a red mug"')
    if only_failed:
        ids = [id for id in ids if run_status.is_unfinished(project, id)]
    errors = []
    for id in ids:
        try:
            if force:
                create.put(project, vocabulary.acceptance(project, force)(project.prompt(id)))
            check(project, id, device=False)  # the prompt may run on a worker, and checks its device there
        except InputError as error:
            errors.append(error)
    if ids and len(errors) == len(ids):
        raise errors[0]
    for error in errors:
        report(error)
    return ids


def check(project: Project, id: str, *, device: bool = True) -> ResolvedPrompt:
    """Check the parameters of a prompt and whether the prior knows its words, and return it.

    Whether this machine has the prompt's device is checked unless `device` is false.

    This takes milliseconds, unless a model is on a hub or a GPU is required. It changes the working directory to the
    project root, because paths in the parameters are relative to the root.
    """
    os.chdir(project.root)
    prompt = project.resolve(id)
    if device:
        machine.check_device(prompt.config.system.device)
    check_models(prompt.config)
    if prompt.config.geometry.start != "field":
        from prolific_core.scenes.start_shape import check_start  # loads torch

        check_start(prompt.config.geometry)
    vocabulary.check(project, prompt.prompt, prompt.config)
    return prompt


def repair(project: Project, id: str) -> None:
    """Remove damaged files and stale DVC locks of a prompt, and report outputs that are missing from DVC's cache.

    The digests of all outputs are computed. The caller must hold the prompt's lock.
    """
    locked = lock_file(project, id)
    _rwlock(project)
    for stage in STAGES:
        _output(project, project.output(id, stage))
        _cached(project, id, stage, locked.get(stage) or {})
        for path in sorted(project.stage_state(id, stage).glob("checkpoints/*/*.safetensors")):
            _checkpoint(project, path)


def lock_file(project: Project, id: str, remove: bool = True) -> dict:
    """Return the stages in a prompt's dvc.lock.

    For a damaged file, an empty dictionary is returned, and the file is removed if `remove` is true. DVC does not write
    the file atomically, so a killed process may leave it empty or truncated.
    """
    path = project.prompt_folder(id) / "dvc.lock"
    if not path.is_file():
        return {}
    text, shown = path.read_text(errors="replace"), path.relative_to(project.root)
    if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
        raise InputError(
            f"{shown} has a merge conflict; delete it, and DVC recreates it without running finished stages"
        )
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        lock: Any = COMPILED_LOCKFILE_SCHEMA(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        stages = lock.get("stages") or {}
        entries = [entry for stage in stages.values() for entry in (*stage.get("deps", []), *stage.get("outs", []))]
        if not all(re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(entry.get("md5"))) for entry in entries):
            raise Invalid("truncated within an entry")
        return stages
    except (yaml.YAMLError, Invalid, RecursionError, ValueError, TypeError, AttributeError):
        if remove:
            path.unlink()
            _report(f"removed the damaged file {shown}; DVC recreates it without running finished stages")
        return {}


def _rwlock(project: Project) -> None:
    """Remove the entries of killed processes from DVC's list of paths in use.

    If the file that contains the list is damaged, the whole file is removed.
    """
    path = project.root / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return
    from dvc.lock import LockError, make_lock

    shown = path.relative_to(project.root)
    try:
        with make_lock(f"{path}.lock", tmp_dir=str(path.parent)):  # prevents other processes from writing the file
            try:
                entries = json.loads(path.read_text())
                stale = [holder for holder in _holders(entries) if not _is_dvc(int(holder["pid"]))]
            except (ValueError, KeyError, TypeError, AttributeError):
                path.unlink()
                _report(f"removed the damaged file {shown}")
                return
            if not stale:
                return
            writers, readers = entries.get("write", {}), entries.get("read", {})
            entries["write"] = {place: holder for place, holder in writers.items() if holder not in stale}
            entries["read"] = {
                place: [holder for holder in holders if holder not in stale] for place, holders in readers.items()
            }
            write_atomically(path, json.dumps(entries).encode())
    except LockError:
        return  # another DVC process is writing the file


def _holders(entries: dict) -> list[dict]:
    readers = entries.get("read", {}).values()
    return [*entries.get("write", {}).values(), *(holder for holders in readers for holder in holders)]


def _is_dvc(pid: int) -> bool:
    """Return whether a process with this id exists and runs DVC.

    After the machine is restarted, another program may have the same process id.
    """
    import psutil

    try:
        return any("dvc" in part for part in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # the process belongs to another user and may run DVC


def _output(project: Project, folder: Path) -> None:
    """Remove an output that differs from its manifest. DVC restores it from its cache or runs its stage again."""
    bad = damaged_files(folder) if folder.is_dir() else {}
    if bad:
        shown = folder.relative_to(project.root)
        name, problem = next(iter(bad.items()))
        shutil.rmtree(folder)
        _report(f"{shown}/{name} {problem}; {shown} is restored from DVC's cache, or its stage runs again")


def _cached(project: Project, id: str, stage: str, locked: dict) -> None:
    """Report an output that is missing from DVC's cache, and remove the damaged objects of an output to be restored.

    DVC then runs the output's stage again, which is correct but may take hours.
    """
    if not (project.root / integrity.CACHE).is_dir():
        return
    shown, found = f"runs/{id}/{stage}", integrity.objects(project, locked)
    restored = not project.output(id, stage).is_dir()
    for md5 in found if restored else []:
        path = integrity.object_path(project, md5)
        if path.is_file() and not integrity.is_intact(path, md5):
            path.unlink()
            _report(f"removed a damaged object from DVC's cache: {path.relative_to(project.root)}")
    if not all(integrity.object_path(project, md5).is_file() for md5 in found):
        _report(
            f"{shown} is missing from DVC's cache; its stage runs again unless `dvc pull` restores it from a remote"
        )


def _checkpoint(project: Project, path: Path) -> None:
    if not checkpoint.is_intact(path):
        path.unlink()
        _report(f"removed the damaged file {path.relative_to(project.root)}; the stage starts again")


def _report(text: str) -> None:
    print(f"prolific: {text}", file=sys.stderr, flush=True)
