"""One stage, from outside: DVC in a process of its own, followed by its records until it ends."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from prolific_core.errors import ProlificError
from tasks.dvc_pipeline.cli import environment
from tasks.runtime import records
from tasks.runtime.console import Console
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker

POLL_SECONDS = 0.2  # seconds between two looks at the records
SEND = 2.0  # seconds between two messages to MLflow
TAIL = 12  # last lines of the console shown with a failure


stopping = threading.Event()  # set, it stops the stages that run in any thread


class StageFailed(ProlificError):
    """A stage ended badly, of which `log` tells more; it keeps the stage's own exit status."""

    def __init__(self, message: str, log: Path, status: int = 1):
        super().__init__(message)
        self.log = log
        self.exit_status = status


class StageKilled(StageFailed):
    """A stage's process ended without a word: killed, most likely; worth another try."""


class DvcLocked(StageFailed):
    """Another DVC holds a path; worth another try."""


@dataclass(frozen=True)
class StageResult:
    """A finished stage. `cached`: DVC found nothing to do."""

    stage: str
    cached: bool
    seconds: float
    peak_memory_mb: float | None


def finished(project: Project, subject, names: list[str]) -> set[str]:
    """Of these stages, in their order, the first ones that DVC has nothing to do for: one question for all of them.

    Looking at each on its own costs a process, and so a second, each.
    """
    if not (project.root / subject.pipeline).with_name("dvc.lock").is_file():
        return set()
    asked = subprocess.run(
        [sys.executable, "-m", "tasks.dvc_pipeline.cli", "status", "--json", subject.pipeline],
        cwd=project.root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    try:
        changed = {name.rpartition(":")[2] for name in json.loads(asked.stdout)}
    except ValueError:
        return set()  # whatever the matter is, the stages will tell
    fresh = itertools.takewhile(lambda name: name not in changed, names)
    return set(fresh) if asked.returncode == 0 else set()


def run(project: Project, stage: str, tracker: Tracker, console: Console, alone: bool = False) -> StageResult:
    """Bring one stage of the tracker's subject up to date.

    alone: without a look at the earlier ones, which costs up to .3 seconds.
    """
    subject = tracker.subject
    state = subject.state(stage)
    state.mkdir(parents=True, exist_ok=True)
    (state / "failure.json").unlink(missing_ok=True)
    began = time.monotonic()
    before = _stamp(state / "records.jsonl")
    process = _start(project, f"{subject.pipeline}:{stage}", state / "console.log", alone)
    try:
        _watch(process, state / "records.jsonl", before, lambda: tracker.follow(stage), console)
    except BaseException:
        _stop(process)
        raise
    finally:
        console.close()
    ran = _stamp(state / "records.jsonl") != before
    if process.returncode != 0:
        if ran:
            tracker.follow(stage, failed=True)
        raise _failure(project, subject, stage, ran)
    tracker.follow(stage, cached=not ran)
    usage = _read_json(state / "run.json") if ran else {}
    return StageResult(stage, not ran, round(time.monotonic() - began, 2), usage.get("peak_memory_mb"))


def _start(project: Project, target: str, console: Path, alone: bool) -> subprocess.Popen:
    # To a file, never a pipe: a reader that dies must not take the stage with it.
    with open(console, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.dvc_pipeline.cli", "repro", *(["--single-item"] if alone else []), target],
            cwd=project.root,
            env={**environment(), "PROLIFIC_TRACKER": os.environ.get("PROLIFIC_TRACKER", "flow")},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # so that one signal reaches DVC and the stage
        )


def _watch(process: subprocess.Popen, path: Path, before, follow, console: Console) -> None:
    offset, attempt, sent = 0, None, time.monotonic()
    while True:
        running = process.poll() is None
        if _stamp(path) != before:
            start = records.first(path)
            if start and start["attempt"] != attempt:
                offset, attempt = 0, start["attempt"]
            new, offset = records.read(path, offset)
            for record in new:
                _show(record, console)
            if running and time.monotonic() - sent > SEND:
                follow()
                sent = time.monotonic()
        if not running:
            return
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if stopping.is_set():
                raise KeyboardInterrupt from None


def _show(record: dict, console: Console) -> None:
    if record["kind"] == "metrics":
        console.values(record["values"])
    elif record["kind"] == "note":
        console.note(record["text"])
    elif record["kind"] == "progress":
        console.step(record["step"], record["steps"], record["left"])


def _stop(process: subprocess.Popen) -> None:
    """SIGINT to the group: DVC and the stage clean up; harder if they do not."""
    for number, seconds in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _failure(project: Project, subject, stage: str, ran: bool) -> StageFailed:
    id, log = subject.name, subject.state(stage) / "console.log"
    last = tail(log, TAIL)
    if any("is busy" in line for line in last):
        return DvcLocked(f"stage '{stage}' of '{id}': another dvc is using its files; run the same command again", log)
    noted = _read_json(subject.state(stage) / "failure.json")
    if noted:
        return StageFailed(f"stage '{stage}' of '{id}' failed: {noted['message']}", log, noted["status"])
    message = "\n  ".join(
        [
            f"stage '{stage}' of '{id}' {'was killed' if ran else 'failed'}; the end of {log.relative_to(project.root)}:",
            *last,
        ]
    )
    return (StageKilled if ran else StageFailed)(message, log)


def tail(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
