"""A piece of work bound to files: what its body is given, and how it is run so that nothing half-done counts.

A body is `def run(job) -> dict[str, float]`: it reads finished folders, writes `job.output`, and
returns its metrics. It is a pure function of its parameters, inputs and code; everything that may
differ between two equal runs (times, memory) goes to .state/, never to the output.
"""

import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from prolific_core.config import LoggingConfig, SystemConfig
from prolific_core.errors import InputError, ProlificError
from tasks.runtime import machine, records
from tasks.runtime.console import Console

MANIFEST = "manifest.json"
METRICS = "metrics.json"


class Job:
    """What a body sees; subclasses say what it is of: where it lies, and all that decides its result.

    final: the folder its output becomes; state: where its records, previews and checkpoints go.
    """

    def __init__(
        self, root: Path, name: str, *, final: Path, state: Path, system: SystemConfig, logging: LoggingConfig
    ):
        self.root, self.name = root, name
        self.final, self.state = final, state
        self.system, self.logging = system, logging
        self._metrics: dict[str, float] = {}
        self._fractions: dict[str, float] = {}
        self._inputs: dict[str, str] = {}
        self._step = 0
        self._pace = records.EtaEstimator()
        self._told = 0.0
        self._records: records.Records | None = None
        self._console: Console | None = None

    # What it is of

    title: str  # for messages
    subject: dict  # what it is made for, as the manifest tells it
    parameters: dict  # the sections its result depends on
    code: tuple[str, ...]  # files and folders, relative to the root, that decide its result
    inputs: tuple[str, ...] = ()  # earlier jobs whose output it reads

    def input(self, name: str) -> Path:
        """The finished folder of an earlier job; raises InputError when it is missing or damaged."""
        raise NotImplementedError

    @property
    def identity(self) -> dict:
        """What decides the result beside inputs, parameters and code."""
        return {}

    @cached_property
    def key(self) -> str:
        """A hash of all that decides the result: parameters, subject, inputs and code."""
        for name in self.inputs:
            self.input(name)
        parts = {
            "parameters": self.parameters,
            **self.identity,
            "inputs": self._inputs,
            "code": [digest(self.root / path) for path in self.code],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    # What it writes

    @cached_property
    def output(self) -> Path:
        """A fresh folder; it becomes `final` when the body has returned, and not before."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    @property
    def _partial(self) -> Path:
        return self.final.with_name(f".{self.name}.partial")

    @cached_property
    def checkpoint(self) -> Path:
        """Where an interrupted run goes on from; of these parameters, inputs and code only."""
        folder = self.state / "checkpoints" / self.key
        if folder.parent.is_dir():
            for other in folder.parent.iterdir():  # of other parameters: no run will ask for them
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def measure(self, **values) -> None:
        """Numbers of the result, kept in metrics.json; the same names everywhere."""
        self._metrics |= {name: records.plain(value) for name, value in values.items()}

    # What it shows

    def progress(self, step: int, steps: int, **metrics) -> None:
        """Called after every step, with the number of steps done: the bar, and the curves.

        Curves are written every `logging.metrics_every` steps, so pass tensors as they are: most
        are never read, and a GPU need not wait.
        """
        self._step = step
        left = self._pace.left(step, steps)
        curve = bool(metrics) and (step % self.logging.metrics_every == 0 or step in (1, steps))
        now = time.monotonic()
        if not curve and step < steps and now - self._told < 1:
            return
        self._told = now
        if curve:
            values = {name: records.plain(value) for name, value in metrics.items()}
            self._record("metrics", step=step, values=values)
            if self._console:
                self._console.values(values)
        self._record("progress", step=step, steps=steps, left=left)
        if self._console:
            self._console.step(step, steps, left)

    def note(self, text: str) -> None:
        """One line for whoever watches: what to expect, or a warning. Never part of the result."""
        self._record("note", text=text)
        if self._console:
            self._console.note(text)

    def fractions(self, fractions: dict[str, float]) -> None:
        """How the time was spent, as fractions of it by name; shown and recorded, never part of the result."""
        self._fractions = fractions

    def picture(self, name: str, image, step: int | None = None) -> Path:
        """Save an image, (3, H, W) or (H, W, 3) in [0, 1], as a preview; the newest is preview.png too."""
        step = self._step if step is None else step
        folder = self.state / "preview"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{step:06d}.png"
        save_png(path, image)
        newest = self.state / ".preview.png"
        shutil.copyfile(path, newest)
        newest.replace(self.state / "preview.png")  # a viewer never sees half a picture
        self._record("picture", name=name, step=step, file=f"preview/{path.name}")
        return path

    def video(self, name: str, frames) -> Path:
        """Save frames (N, 3, S, S) in [0, 1] as a video beside the previews."""
        from prolific_core.visualisation import write_video

        path = self.state / "preview" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames)
        self._record("file", file=f"preview/{path.name}")
        return path

    @cached_property
    def device(self):
        """Where to compute (torch.device); setting it up fixes threads and determinism."""
        return machine.set_up_torch(self.system.threads, self.system.device)

    def _record(self, kind: str, **values) -> None:
        if self._records:
            self._records.write(kind, **values)

    # How it runs

    def run(self, body: Callable[["Job"], dict | None], console: Console | None = None) -> dict:
        """Run the body and put its output in place, whole; the metrics."""
        began = time.monotonic()
        with only_one(self.state / "lock", self.title):
            key = self.key  # inputs are checked before anything is written
            resumes = self.checkpoint.is_dir() and any(self.checkpoint.iterdir())
            if not resumes:
                shutil.rmtree(self.state / "preview", ignore_errors=True)
            self._records = records.Records(self.state / "records.jsonl", key)
            self._console = console
            try:
                if "torch" in sys.modules:
                    self.device  # noqa: B018 (threads and determinism, before the body computes)
                self.measure(**(body(self) or {}))
                self._finish()
            except BaseException:
                shutil.rmtree(self._partial, ignore_errors=True)
                raise
            finally:
                if console:
                    console.close()
            self._report(time.monotonic() - began)
            shutil.rmtree(self.checkpoint, ignore_errors=True)
            self._records.close()
        return self._metrics

    def _finish(self) -> None:
        """Metrics, then the manifest, then the name: what is half-written is never taken for whole."""
        write_json(self.output / METRICS, self._metrics)
        manifest = {
            "stage": self.name,
            **self.subject,
            "parameters": self.parameters,
            "inputs": self._inputs,
            "files": {
                path.relative_to(self.output).as_posix(): digest(path)
                for path in sorted(self.output.rglob("*"))
                if path.is_file()
            },
        }
        write_json(self.output / MANIFEST, manifest)
        if self.final.exists():  # outside DVC, which removes it before the run
            old = self.final.with_name(f".{self.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            self.final.replace(old)
            self.output.replace(self.final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.output.replace(self.final)

    def _report(self, seconds: float) -> None:
        device = str(self.device) if "torch" in sys.modules else "cpu"
        usage = {"seconds": round(seconds, 2), "peak_memory_mb": machine.peak_memory_mb(), "device": device}
        if self._fractions:
            usage["fractions"] = {name: round(share, 3) for name, share in self._fractions.items()}
        write_json(self.state / "run.json", usage)
        manifest = digest(self.final / MANIFEST)
        self._record("end", metrics=self._metrics, manifest=manifest, **usage)


def check_output(folder: Path, shown: str, command: str) -> str:
    """The digest of a finished folder's manifest; InputError when it is missing, torn or damaged."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        what = "is incomplete" if folder.exists() else "is missing"
        raise InputError(f"{shown} {what}; make it with: {command}")
    try:
        files = json.loads(manifest.read_text())["files"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{shown}/{MANIFEST} is not whole; make it again with: {command}") from None
    for name, expected in files.items():
        if not (folder / name).is_file() or digest(folder / name) != expected:
            raise InputError(f"{shown}/{name} is not the file its stage wrote; make it again with: {command}")
    return digest(manifest)


def note_failure(state: Path, line: str, status: int) -> None:
    """For whoever waits for this process through DVC, which gives its own status and not ours."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        write_json(state / "failure.json", {"message": line, "status": status})
    except OSError:
        pass  # a full disk or no permission, most likely what we were about to note


def save_png(path: Path, image) -> None:
    """A float image in [0, 1] (or bytes), (3, H, W) or (H, W, 3), tensor or array."""
    import numpy as np
    from PIL import Image

    array = image.detach().float().cpu().numpy() if hasattr(image, "detach") else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array).clip(0, 1) * 255).round().astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    partial = path.with_name(f".{path.name}")
    Image.fromarray(array).save(partial, format="PNG")
    partial.replace(path)


def write_json(path: Path, value: dict) -> None:
    """Sorted and indented: the same value gives the same bytes."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's names and contents; of nothing when it is missing."""
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(path).as_posix()} {digest(file)}\n".encode())
    elif path.is_file():
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


class only_one:
    """A lock that a kill releases: two runs of one stage at once would write one folder."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what

    def __enter__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "w")  # noqa: SIM115
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise ProlificError(f"{self.what} is already running; wait for it or stop it first") from None

    def __exit__(self, *_) -> None:
        self.file.close()
