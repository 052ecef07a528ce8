"""Nested MLflow run of one stage, created from the stage's records and output on disk."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prolific_core.files import read_json
from tasks.runtime import records

SENT = "prolific.sent"  # tag with the number of bytes of the records file sent so far
ATTEMPT = "prolific.attempt"  # tag that identifies the computation behind the records or the output
FILES = ("*.json", "*.png", "*.mp4", "*.glb")  # patterns of the output files that are sent
FACTS = ("cached", "device", "seconds", "peak_memory_mb")


class StageRun:
    """MLflow run of one stage, nested in the parent run of its tracker (tasks/tracking/tracker.py)."""

    def __init__(self, tracker, stage: str):
        self.tracker, self.stage = tracker, stage
        self.state = tracker.subject.state(stage)
        self.output = tracker.subject.output(stage)
        self.attempt: str | None = None
        self.run = ""
        self.offset = 0
        self.step = 0  # last step whose metrics were sent
        self.done = False
        self.facts: dict[str, Any] = {}  # values of the tags and metrics in FACTS

    def send(self, parent: str, cached: bool, failed: bool, running: bool) -> None:
        path = self.state / "records.jsonl"
        start = records.first(path)
        if cached and not records.end_of(path, self.output):
            start = None  # The output came from DVC's cache, and the records belong to another run.
        attempt = start["attempt"] if start else manifest_digest(self.output)
        if attempt is None:
            return  # The stage has not started.
        if attempt != self.attempt:
            self._open(parent, attempt, start, cached)
        if self.done:
            return
        new, offset = records.read(path, self.offset) if start else ([], 0)
        end = next((record for record in reversed(new) if record["kind"] == "end"), None)
        if end and running:
            return  # DVC may be moving the output into its cache, so all this is sent when DVC has ended
        self._send(new)
        if end or not start:
            self._close(end)
        elif failed:
            self.tracker.client.set_terminated(self.run, "FAILED")
        if offset != self.offset:  # Set the tag last, so that an interrupted transfer is repeated.
            self.offset = offset
            self.tracker.client.set_tag(self.run, SENT, str(offset))

    def _open(self, parent: str, attempt: str, start: dict | None, cached: bool) -> None:
        tracker, token = self.tracker, f"{self.tracker.token}:{self.stage}:{attempt}"
        self.attempt, self.offset, self.step, self.done = attempt, 0, 0, False
        if found := tracker.find(token):
            tracker.parameters(found, tracker.subject.stage_parameters(self.stage))
            self.run, sent = found.info.run_id, {**found.data.tags, **found.data.metrics}
            self.facts = {name: sent[name] for name in FACTS if name in sent}
            self.offset = int(sent.get(SENT, 0))
            self.step = last_step(records.read(self.state / "records.jsonl", stop=self.offset)[0])
            self.done = found.info.status == "FINISHED"
            return
        # If MLflow has no run of this attempt, the stage counts as computed even if DVC reports it as cached.
        cached = cached and (start is None or tracker.find(attempt, ATTEMPT, anywhere=True) is not None)
        self.facts = {"cached": str(cached).lower()}
        tags = {
            "mlflow.runName": self.stage,
            "mlflow.parentRunId": parent,
            "stage": self.stage,
            **self.facts,
            ATTEMPT: attempt,
            **tracker.subject.stage_tags(self.stage),
        }
        if start and start.get("revision"):
            tags["revision"] = start["revision"]
        run = tracker.make(token, tags, milliseconds(start or {}))
        self.run = run.info.run_id
        tracker.parameters(run, tracker.subject.stage_parameters(self.stage))

    def _send(self, new: list[dict]) -> None:
        points = []
        for record in new:
            time = milliseconds(record)
            # A run that resumes from a checkpoint repeats the steps after it, with the same values.
            if record["kind"] == "metrics" and record["step"] > self.step:
                self.step = record["step"]
                values = {**record["values"], **record.get("usage", {})}
                points += [(name, value, record["step"], time) for name, value in values.items()]
            elif record["kind"] == "image":
                self._image(record, time)
            elif record["kind"] == "file" and (self.state / record["file"]).is_file():
                self.tracker.client.log_artifact(self.run, str(self.state / record["file"]))
        log(self.tracker.client, self.run, points)

    def _image(self, record: dict, time: int) -> None:
        """Send an image under the name that MLflow's step slider expects.

        The name is deterministic, so sending an image again replaces the earlier copy.
        """
        source = self.state / record["file"]
        if not source.is_file():
            return
        from PIL import Image

        unique = hashlib.sha256(f"{self.attempt}{record['file']}".encode()).hexdigest()[:32]
        stem = f"{record['name']}+step+{record['step']}+timestamp+{time}+{unique}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(source, Path(folder) / f"{stem}.png")
            Image.open(source).convert("RGB").save(Path(folder) / f"{stem}+compressed.webp")
            self.tracker.client.log_artifacts(self.run, folder, "images")
        self.tracker.client.set_tag(self.run, "mlflow.loggedImages", "true")

    def _close(self, end: dict | None) -> None:
        """Send the metrics, files, run time and peak memory of a finished stage, and mark its run as finished."""
        client, end = self.tracker.client, end or {}
        metrics = self.output / "metrics.json"
        values = end.get("metrics") or read_json(metrics)
        usage = {name: end[name] for name in ("seconds", "peak_memory_mb", "peak_gpu_memory_mb") if name in end}
        fractions = {
            f"time_fraction_{name.replace(' ', '_')}": fraction for name, fraction in end.get("fractions", {}).items()
        }
        # Final metrics are logged at the last step, which makes them the last points of curves with the same names.
        step = self.step if end else 0  # Without an end record, the records belong to another run.
        log(
            client,
            self.run,
            [(name, value, step, milliseconds(end)) for name, value in {**values, **usage, **fractions}.items()],
        )
        self.facts |= usage
        if "device" in end:
            self.facts["device"] = end["device"]
            client.set_tag(self.run, "device", end["device"])
        for pattern in FILES:
            for path in sorted(self.output.glob(pattern)):
                client.log_artifact(self.run, str(path))
        client.set_terminated(self.run, end_time=milliseconds(end) or None)
        self.done = True


def last_step(found: list[dict]) -> int:
    """Return the last step with metrics among some records, or 0."""
    return max((record["step"] for record in found if record["kind"] == "metrics"), default=0)


def milliseconds(record: dict) -> int:
    """Return the time of a record in milliseconds, or 0 if it has none."""
    return int(record.get("time", 0) * 1000)


def log(client, run: str, points: list[tuple]) -> None:
    """Log metrics, given as tuples (name, value, step, milliseconds), in batches."""
    from mlflow.entities import Metric

    metrics = [Metric(name, value, time, step) for name, value, step, time in points if value is not None]
    for start in range(0, len(metrics), 500):
        client.log_batch(run, metrics=metrics[start : start + 500])


def manifest_digest(output: Path) -> str | None:
    """Return a short digest of the manifest in a stage's output, or None if the manifest does not exist."""
    manifest = output / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.is_file() else None
