"""Records of a running stage in an append-only JSONL file that other processes can read at any time.

Each line is an event with the time at which it was written:

    {"kind": "start", "attempt": "...", "key": "...", "revision": "14eb0a3c2d11", "loading": 4.2, "time": ...}
    {"kind": "status", "text": "loading the prior", "time": ...}                         before the first step
    {"kind": "progress", "step": 40, "steps": 600, "left": 93.1, "time": ...}          the progress bar
    {"kind": "metrics", "step": 40, "values": {"loss": 0.31}, "usage": {...}, "time": ...}  the curves
    {"kind": "curve", "step": 40, "values": {"loss": 0.31}, "time": ...}    a point of the output's curve
    {"kind": "image", "name": "view", "step": 50, "file": "preview/view-000050.png", "time": ...}
    {"kind": "file", "file": "preview/turntable.mp4", "time": ...}
    {"kind": "note", "text": "needs about 0.7 GB of memory (cpu)", "time": ...}       a line for the console
    {"kind": "end", "seconds": 61.0, "peak_memory_mb": 900.0, "metrics": {...},
     "manifest": "<digest of the manifest>", "device": "cpu", "time": ...}

A resumed run appends to the same file. Slow or missing readers (the terminal, MLflow) do not affect the stage.
"""

import json
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.runtime.digests import digest
from tasks.runtime.revision import revision
from tasks.runtime.usage import Usage


def plain(value) -> float | None:
    """Convert a number or a one-element tensor to a float, or to None if it is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None


def plain_values(values: dict) -> dict[str, float | None]:
    """Convert named values as `plain` does, with a single transfer of those that are on a GPU."""
    on_gpu = {name: value for name, value in values.items() if str(getattr(value, "device", "cpu")) != "cpu"}
    if on_gpu:
        import torch

        values = values | dict(zip(on_gpu, torch.stack([value.double() for value in on_gpu.values()]).tolist()))
    return {name: plain(value) for name, value in values.items()}


class Records:
    """Writer of a records file.

    An existing file is continued if its run is unfinished and has the same `key`. Otherwise it is overwritten.
    `loading` is the number of seconds that the process has spent so far.
    """

    def __init__(self, path: Path, key: str, loading: float = 0.0):
        self.path = path
        start, earlier = first(path), read(path)[0]
        resumed = start is not None and start.get("key") == key and not ended(path)
        self.earlier = _worked(earlier) if resumed else 0.0  # seconds of the parts before an interruption
        self.attempt = start["attempt"] if start and resumed else uuid.uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each line is a single unbuffered write, so a killed process leaves at most one partial line. Readers skip it.
        self._file = open(path, "ab" if resumed else "wb", buffering=0)  # noqa: SIM115
        if resumed:
            self._file.write(b"\n")  # Terminate the last line, which may be partial.
        self._usage = Usage()
        code = revision(path.parent)
        self.write("start", attempt=self.attempt, key=key, revision=code, loading=round(loading, 2))

    def write(self, kind: str, **values) -> None:
        if kind == "metrics":
            values["usage"] = self._usage.sample()
        line = json.dumps({"kind": kind, **values, "time": round(time.time(), 3)}) + "\n"
        self._file.write(line.encode())
        if kind == "curve":
            os.fsync(self._file.fileno())  # A checkpoint must not survive a power failure that loses these points.

    def close(self) -> None:
        self._file.close()


class EtaEstimator:
    """Estimator of the remaining seconds from the mean duration of the latest steps.

    The first steps are left out, because loading and compiling slow them down. The window is long, so that a preview or
    a checkpoint hardly changes the estimate.
    """

    def __init__(self, skipped: int = 5, window: int = 100):
        self._skipped = skipped
        self._first: int | None = None
        self._seen: deque[tuple[float, int]] = deque(maxlen=window)

    def left(self, step: int, steps: int) -> float | None:
        """Return the estimate after a step, or None if too few steps have been measured."""
        if self._first is None or (self._seen and step <= self._seen[-1][1]):
            self._first = step  # The step count has started, or restarted.
            self._seen.clear()
        if step - self._first < self._skipped:
            return None
        now = time.monotonic()
        self._seen.append((now, step))
        (then, before) = self._seen[0]
        measured = step - before
        return round((steps - step) * (now - then) / measured, 1) if measured >= self._skipped else None


def read(path: Path, offset: int = 0, stop: int | None = None) -> tuple[list[dict], int]:
    """Return the complete records between two byte offsets, and the offset for the next call.

    If the file does not exist, no records are returned.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read() if stop is None else file.read(stop - offset)
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return list(_parse(whole)), offset + len(whole)


def first(path: Path) -> dict | None:
    """Return the first record of a file, or None if it is not a complete `start` record."""
    try:
        with open(path, "rb") as file:
            found = next(_parse(file.readline()), None)
    except FileNotFoundError:
        return None
    return found if found and found["kind"] == "start" and "attempt" in found else None


def ended(path: Path) -> bool:
    """Return whether the run that wrote the file has finished."""
    records, _ = read(path)
    return bool(records) and records[-1]["kind"] == "end"


def end_of(path: Path, output: Path) -> dict:
    """Return the last record of the run that made an output.

    Returns an empty dictionary if these records belong to another run, because the output was restored from DVC's cache
    or made on another machine.
    """
    last = next(reversed(read(path)[0]), {})
    manifest = output / "manifest.json"
    return last if manifest.is_file() and last.get("manifest") == digest(manifest) else {}


def total_seconds(seconds: Iterable[float | None]) -> float | None:
    """Return the duration of a run, which is the sum over its stages, or None if that of a stage is not known."""
    known = list(seconds)
    return None if None in known else round(sum(filter(None, known)), 2)


def _worked(records: list[dict]) -> float:
    """Return the seconds that the processes of a run have worked, without the time between them."""
    worked, began, last = 0.0, 0.0, 0.0
    for record in records:
        if record["kind"] == "start":
            worked, began = worked + last - began, record.get("time", last) - record.get("loading", 0.0)
        last = record.get("time", last)
    return worked + last - began


def _parse(data: bytes) -> Iterator[dict]:
    for line in data.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # Skip a partial line.
        if isinstance(record, dict) and "kind" in record:
            yield record
