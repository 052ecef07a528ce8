"""Outbox for runs that could not be sent to MLflow.

The runs are stored in .state/mlflow/outbox/ until MLflow is reachable again. The next run of a prompt overwrites its
records and outputs, so the metrics, images and small files that a tracker sends are copied to the outbox. Weights are
not copied.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from prolific_core.errors import ProlificError
from tasks.runtime import locks
from tasks.runtime.project import Project
from tasks.tracking import receipts
from tasks.tracking.stage_run import FILES

# Attributes of the subject that are copied.
_PLAIN = ("experiment", "name", "identity", "tags", "parameters", "prompts")


class PendingRun:
    """Pending run in the outbox, a copy of a tracker's subject with the same interface."""

    def __init__(self, folder: Path):
        self.folder = folder
        content = json.loads((folder / "subject.json").read_text())
        for name in _PLAIN:
            setattr(self, name, content["subject"][name])
        self.stages: dict[str, dict] = content["stages"]  # tags, parameters and flags of each stage
        # The metrics and origin of the run, or None if `Tracker.finish` was not called.
        self.finished: dict | None = content["finished"]
        self.failed: bool = content["failed"]

    def delete(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "files").glob("*"))

    def stage_tags(self, stage: str) -> dict:
        return self.stages[stage]["tags"]

    def stage_parameters(self, stage: str) -> dict:
        return self.stages[stage]["parameters"]

    def state(self, stage: str) -> Path:
        return self.folder / "state" / stage

    def output(self, stage: str) -> Path:
        return self.folder / "output" / stage


def keep(project: Project, token: str, subject, stages: dict[str, dict], finished: dict | None, failed: bool) -> None:
    """Copy a subject to the outbox, and replace an earlier copy of the same run.

    `stages` maps the name of each stage to its flags `cached` and `failed`. `finished` has the keys `metrics`, `files`
    and `origin`, or is None if `Tracker.finish` was not called.
    """
    stages = {
        name: flags | {"tags": subject.stage_tags(name), "parameters": subject.stage_parameters(name)}
        for name, flags in stages.items()
    }
    attempts = receipts.attempts(subject, list(stages))
    identity = json.dumps([subject.experiment, token, attempts, finished and finished["metrics"]], sort_keys=True)
    folder = _folder(project) / hashlib.sha256(identity.encode()).hexdigest()[:16]
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    for name in stages:
        _copy(subject.state(name), partial / "state" / name, ("records.jsonl", "preview/*"))
        _copy(subject.output(name), partial / "output" / name, FILES)
    (partial / "files").mkdir(parents=True)
    for path in (finished or {}).get("files", []):
        if path.is_file():
            shutil.copy2(path, partial / "files")
    plain = {name: getattr(subject, name, None) for name in _PLAIN}
    finished = finished and {name: finished[name] for name in ("metrics", "origin")}
    (partial / "subject.json").write_text(
        json.dumps({"subject": plain, "stages": stages, "finished": finished, "failed": failed})
    )
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def kept(project: Project) -> Iterator[PendingRun]:
    """Yield the pending runs from oldest to newest.

    If another process is already sending them, nothing is yielded.
    """
    if not _folder(project).is_dir():
        return
    try:
        lock = locks.hold(_folder(project) / ".lock", "the outbox is in use")
    except ProlificError:
        return
    with lock:
        for folder in sorted(_folder(project).glob("[!.]*/"), key=lambda folder: folder.stat().st_mtime):
            yield PendingRun(folder)


def is_empty(project: Project) -> bool:
    """Return whether no pending run exists."""
    return next(_folder(project).glob("[!.]*/"), None) is None


def _folder(project: Project) -> Path:
    return project.state / "mlflow" / "outbox"


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in source.glob(pattern):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
