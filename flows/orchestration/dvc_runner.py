"""Run stages with DVC in a child process, and read their records while they run."""

import contextvars
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prolific_core.errors import ProlificError
from prolific_core.files import read_json
from tasks.dvc_pipeline.cli import environment
from tasks.runtime import records
from tasks.runtime.console import Console
from tasks.runtime.job import EditedWhileRunning
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker

POLL_SECONDS = 0.2  # interval between two reads of the records
SYNC_SECONDS = 2.0  # interval between two transfers of the records to MLflow
TAIL = 12  # number of log lines shown with a failure


#: The GPU of the stages that the current thread starts, for CUDA_VISIBLE_DEVICES; None for all.
use_gpu: contextvars.ContextVar[str | None] = contextvars.ContextVar("use_gpu", default=None)
stopping = threading.Event()  # set to stop the running stages of all threads


class StageFailed(ProlificError):
    """Error raised when a stage fails, with the path of its log and its exit status."""

    def __init__(self, message: str, log: Path, status: int = 1):
        super().__init__(message)
        self.log = log
        self.exit_status = status


class StageInterrupted(StageFailed):
    """Error raised when a stage was killed, or when its parameters or code were edited while it ran."""

    temporary = True


class DvcLocked(StageFailed):
    """Error raised when another DVC process has locked the files of a stage."""

    temporary = True


@dataclass(frozen=True)
class StageResult:
    """Result of a finished stage.

    `cached` is true if the stage did not run because it was already up to date. `seconds` and `peak_memory_mb` are
    those of the run that made the output, or None if that run has left no records here.
    """

    stage: str
    cached: bool
    seconds: float | None
    peak_memory_mb: float | None


def finished(project: Project, subject, names: list[str]) -> set[str]:
    """Return the stages before the first one that is out of date.

    This calls `dvc status` once, which takes about one second.
    """
    if not (project.root / subject.pipeline).with_name("dvc.lock").is_file():
        return set()
    done = subprocess.run(
        [sys.executable, "-m", "tasks.dvc_pipeline.cli", "status", "--json", subject.pipeline],
        cwd=project.root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    try:
        changed = {name.rpartition(":")[2] for name in json.loads(done.stdout)}
    except ValueError:
        return set()  # running the stages will report the error
    unchanged = itertools.takewhile(lambda name: name not in changed, names)
    return set(unchanged) if done.returncode == 0 else set()


def run(project: Project, stage: str, tracker: Tracker, console: Console, upstream: bool = True) -> StageResult:
    """Bring a stage of the tracker's subject up to date and return its result.

    If `upstream` is true, the earlier stages are brought up to date as well. Checking them takes up to 0.3 s.
    """
    subject = tracker.subject
    state = subject.state(stage)
    state.mkdir(parents=True, exist_ok=True)
    (state / "failure.json").unlink(missing_ok=True)
    path = state / "records.jsonl"
    before, attempt = _stamp(path), (records.first(path) or {}).get("attempt")
    console.status("starting")
    process = _start(project, f"{subject.pipeline}:{stage}", state / "console.log", upstream)
    try:
        _watch(process, path, before, attempt, lambda: tracker.sync_stage(stage, running=True), console)
    except BaseException:
        _stop(process)
        raise
    finally:
        console.close()
    ran = _stamp(path) != before
    if process.returncode != 0:
        if ran:
            tracker.sync_stage(stage, failed=True)
        raise _failure(project, subject, stage, ran)
    shutil.rmtree(state / "finished", ignore_errors=True)  # DVC has recorded the output
    tracker.sync_stage(stage, cached=not ran)
    return _result(subject, stage, cached=not ran)


def cached(subject, stage: str) -> StageResult:
    """Return the result of a stage that is up to date."""
    return _result(subject, stage, cached=True)


def _result(subject, stage: str, cached: bool) -> StageResult:
    end = records.end_of(subject.state(stage) / "records.jsonl", subject.output(stage))
    return StageResult(stage, cached, end.get("seconds"), end.get("peak_memory_mb"))


def _start(project: Project, target: str, console: Path, upstream: bool) -> subprocess.Popen:
    # The output goes to a file, because writing to a pipe would fail if this process died.
    with open(console, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.dvc_pipeline.cli", "repro", *([] if upstream else ["--single-item"]), target],
            cwd=project.root,
            env={
                **environment(),
                "PROLIFIC_TRACKER": os.environ.get("PROLIFIC_TRACKER", "flow"),
                **({"CUDA_VISIBLE_DEVICES": gpu} if (gpu := use_gpu.get()) else {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # one signal to the group reaches both DVC and the stage
        )


def _watch(
    process: subprocess.Popen,
    path: Path,
    before: tuple[int, int] | None,
    attempt: str | None,
    sync: Callable[[], None],
    console: Console,
) -> None:
    """Show and send the records of a stage until its process ends.

    `before` is the stamp of the records before its start, and `attempt` is their id. A resumed stage appends to them.
    """
    offset, synced = before[1] if before else 0, time.monotonic()
    while True:
        running = process.poll() is None
        if _stamp(path) != before:
            start = records.first(path)
            if start and start["attempt"] != attempt:
                offset, attempt = 0, start["attempt"]
            new, offset = records.read(path, offset)
            for record in new:
                _show(record, console)
            if running and time.monotonic() - synced > SYNC_SECONDS:
                sync()
                synced = time.monotonic()
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
    elif record["kind"] == "status":
        console.status(record["text"])
    elif record["kind"] == "note":
        console.note(record["text"])
    elif record["kind"] == "progress":
        console.step(record["step"], record["steps"], record["left"])


def _stop(process: subprocess.Popen) -> None:
    """Stop the process group of DVC and the stage.

    SIGINT allows both to clean up. If they do not exit, SIGTERM and SIGKILL follow.
    """
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
        return DvcLocked(
            f"stage '{stage}' of '{id}': another DVC process is using its files; run the command again later", log
        )
    noted = read_json(subject.state(stage) / "failure.json")
    if noted:
        message, status = f"stage '{stage}' of '{id}' failed: {noted.get('message')}", noted.get("status")
        if status == EditedWhileRunning.exit_status:
            return StageInterrupted(message, log)
        return StageFailed(message, log, status if isinstance(status, int) else 1)
    # A stage that fails by itself says why. One that has begun without doing so, or that a signal ended, was killed.
    killed = ran or any(re.search(r"exited with -\d+", line) for line in last)
    end = "was killed" if killed else "failed"
    # A sweep shows the first line of a message, and then the log.
    shown = f"last lines of {log.relative_to(project.root)}:"
    message = "\n  ".join([f"stage '{stage}' of '{id}' {end}", shown, *last])
    return (StageInterrupted if killed else StageFailed)(message, log)


def tail(log: Path, count: int) -> list[str]:
    """Return the last `count` non-empty lines of a log."""
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
