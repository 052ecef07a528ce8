"""What was recorded while MLflow was away, put aside under .state/mlflow/outbox/ and sent once it is back.

A prompt's next run overwrites its records and outputs, so what could not be sent is copied: the
numbers, pictures and small files that a tracker sends, and no weights.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime import records
from tasks.runtime.project import Project
from tasks.tracking.stage_run import FILES, manifest_digest

_PLAIN = ("experiment", "name", "identity", "tags", "parameters", "prompts")  # attributes kept as they are


class PendingRun:
    """A subject as it was, in a folder of the outbox: to a tracker, like the one that it was made of."""

    def __init__(self, folder: Path):
        self.folder = folder
        said = json.loads((folder / "subject.json").read_text())
        for name in _PLAIN:
            setattr(self, name, said["subject"][name])
        self.stages: dict[str, dict] = said["stages"]  # tags, parameters, cached, failed
        self.finished: dict | None = said["finished"]  # metrics, origin
        self.failed: bool = said["failed"]

    def forget(self) -> None:
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
    """Put aside what a tracker was told of a subject; the same again replaces it.

    stages: by name, `cached` and `failed`; finished: `metrics`, `files` and `origin`, or None.
    """
    stages = {
        name: flags | {"tags": subject.stage_tags(name), "parameters": subject.stage_parameters(name)}
        for name, flags in stages.items()
    }
    attempts = [
        [
            name,
            (records.first(subject.state(name) / "records.jsonl") or {}).get("attempt"),
            manifest_digest(subject.output(name)),
        ]
        for name in stages
    ]
    what = json.dumps([subject.experiment, token, attempts, finished and finished["metrics"]], sort_keys=True)
    folder = _folder(project) / hashlib.sha256(what.encode()).hexdigest()[:16]
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
    """All that was put aside, the oldest first; nothing while another process sends it."""
    with _alone(_folder(project)) as mine:
        if not mine:
            return
        for folder in sorted(_folder(project).glob("[!.]*/"), key=lambda folder: folder.stat().st_mtime):
            yield PendingRun(folder)


def _folder(project: Project) -> Path:
    return project.state / "mlflow" / "outbox"


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in source.glob(pattern):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    if not folder.is_dir():
        yield False
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
