"""Records of a running stage in an append-only JSONL file that other processes can read at any time.

Each line is an event with the time at which it was written:

    {"kind": "start", "attempt": "...", "key": "...", "revision": "14eb0a3c2d11", "time": ...}
    {"kind": "progress", "step": 40, "steps": 600, "left": 93.1, "time": ...}          the progress bar
    {"kind": "metrics", "step": 40, "values": {"loss": 0.31}, "usage": {...}, "time": ...}  the curves
    {"kind": "image", "name": "view", "step": 50, "file": "preview/view-000050.png", "time": ...}
    {"kind": "file", "file": "preview/turntable.mp4", "time": ...}
    {"kind": "note", "text": "estimated memory: about 0.7 GB on cpu", "time": ...}       a line for the console
    {"kind": "end", "seconds": 61.0, "peak_memory_mb": 900.0, "metrics": {...},
     "manifest": "<digest of the manifest>", "device": "cpu", "time": ...}

A resumed run appends to the same file. Slow or missing readers (the terminal, MLflow) do not affect the stage.
"""

import json
import math
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path

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
    """

    def __init__(self, path: Path, key: str):
        self.path = path
        start = first(path)
        resumed = start is not None and start.get("key") == key and not ended(path)
        self.attempt = start["attempt"] if start and resumed else uuid.uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each line is a single unbuffered write, so a killed process leaves at most one partial line. Readers skip it.
        self._file = open(path, "ab" if resumed else "wb", buffering=0)  # noqa: SIM115
        if resumed:
            self._file.write(b"\n")  # Terminate the last line, which may be partial.
        self._usage = Usage()
        self.write("start", attempt=self.attempt, key=key, revision=revision(path.parent))

    def write(self, kind: str, **values) -> None:
        if kind == "metrics":
            values["usage"] = self._usage.sample()
        line = json.dumps({"kind": kind, **values, "time": round(time.time(), 3)}) + "\n"
        self._file.write(line.encode())

    def close(self) -> None:
        self._file.close()


class EtaEstimator:
    """Estimator of the remaining seconds.

    It uses only the latest steps, because the first steps are slowed by loading and compiling.
    """

    def __init__(self, window: int = 40):
        self._seen: deque[tuple[float, int]] = deque(maxlen=window)

    def left(self, step: int, steps: int) -> float | None:
        if self._seen and step <= self._seen[-1][1]:
            self._seen.clear()  # The step count has restarted.
        now = time.monotonic()
        self._seen.append((now, step))
        (then, before) = self._seen[0]
        return round((steps - step) * (now - then) / (step - before), 1) if step > before else None


def read(path: Path, offset: int = 0) -> tuple[list[dict], int]:
    """Return the complete records after a byte offset, and the offset for the next call.

    If the file does not exist, no records are returned.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
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


def _parse(data: bytes) -> Iterator[dict]:
    for line in data.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # Skip a partial line.
        if isinstance(record, dict) and "kind" in record:
            yield record
