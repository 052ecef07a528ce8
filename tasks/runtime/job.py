"""Base class of jobs that compute an output folder from input files.

The output appears in its final place only when it is complete. A job runs a function `run(job) -> dict[str, float]`
that reads the outputs of earlier jobs, writes to `job.output` and returns metrics. The result must depend
only on parameters, inputs and code. Everything that may differ between two identical runs, such as times and memory, is
written to .state/ and never to the output.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from prolific_core.config import LoggingConfig, SystemConfig
from prolific_core.errors import ProlificError
from prolific_core.files import atomically, read_json, write_json
from tasks.runtime import curve, digests, locks, machine, manifest, records, unrecorded
from tasks.runtime.console import Console
from tasks.runtime.digests import digest

METRICS = "metrics.json"
PREVIEW = "preview"  # folder of previews: all of them in the state folder, those to keep in the output
_KEPT = "kept"  # folder in the state folder, for previews that the output will contain


class EditedWhileRunning(ProlificError):
    """Error raised when parameters or code were edited while a job ran."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h
    temporary = True


class Job:
    """Base class that runs a job and provides its inputs, output, checkpoints and reporting.

    Subclasses define everything that determines the result. The output is moved to the folder `final` when it is
    complete. Records, previews and checkpoints are written to the folder `state`.
    """

    def __init__(
        self, root: Path, name: str, *, final: Path, state: Path, system: SystemConfig, logging: LoggingConfig
    ):
        self._began = time.monotonic()
        self.root, self.name = root, name
        self.final, self.state = final, state
        self.system, self.logging = system, logging
        self._metrics: dict[str, float | None] = {}
        self._fractions: dict[str, float] = {}
        self._inputs: dict[str, str] = {}
        self._step = 0
        self._eta = records.EtaEstimator()
        self._last_progress = 0.0
        self._records: records.Records | None = None
        self._console: Console | None = None

    # Attributes that subclasses define

    title: str  # name of the job in messages
    subject: dict  # manifest entries that identify the prompt or the prior
    parameters: dict  # parameter sections that the result depends on
    code: tuple[str, ...]  # files and folders, relative to the root, that the result depends on
    models: tuple[str, ...] = ()  # folders, relative to the root, of models of the user's own that the job loads
    inputs: tuple[str, ...] = ()  # names of the earlier jobs whose outputs this job reads
    keeps_curve = False  # whether the output contains the curve of the metrics

    def input(self, name: str) -> Path:
        """Return the output folder of an earlier job, or raise an InputError if it is missing or damaged."""
        raise NotImplementedError

    @property
    def identity(self) -> dict:
        """Values that determine the result in addition to parameters, inputs and code."""
        return {}

    @property
    def resumable(self) -> dict:
        """Parameters that a checkpoint depends on. All parameters by default."""
        return self.parameters

    @cached_property
    def sources(self) -> dict:
        """Parameters, identity and digests of the code when the job was created or first asked."""
        return {
            "parameters": self.parameters,
            **self.identity,
            "code": [digest(self.root / path) for path in self.code],
        }

    def read_again(self) -> "Job":
        """Return the same job with the parameters and the code that the files have now."""
        raise NotImplementedError

    @property
    def lock_file(self) -> Path:
        """DVC's file with the recorded outputs of this job and its neighbours."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """Hash of everything that a checkpoint depends on: parameters, identity, inputs, code and models."""
        for name in self.inputs:
            self.input(name)
        parts = {
            **self.sources,
            "parameters": self.resumable,
            "inputs": self._inputs,
            **({"models": self._model_digests} if self.models else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def _model_digests(self) -> dict[str, str]:
        known = digests.Digests(self.root / ".state" / "digests.json")
        return {path: known.of(self.root / path) for path in self.models}

    # Output

    @cached_property
    def output(self) -> Path:
        """Empty folder for the output. It is renamed to `final` after the job has succeeded."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    @property
    def _partial(self) -> Path:
        return self.final.with_name(f".{self.name}.partial")

    @cached_property
    def checkpoint(self) -> Path:
        """Folder of the checkpoints from which an interrupted run with the same key resumes."""
        folder = self.state / "checkpoints" / self.key
        if folder.parent.is_dir():
            for other in folder.parent.iterdir():  # Delete the checkpoints of other parameters, inputs or code.
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def measure(self, **values) -> None:
        """Add metrics to the result. They are written to metrics.json."""
        self._metrics |= {name: records.plain(value) for name, value in values.items()}

    # Reporting

    def progress(self, step: int, steps: int, **metrics) -> None:
        """Report the progress and the metrics of a step. Call this method after every step.

        Metrics are recorded every `logging.metrics_every` steps. Pass tensors instead of floats, because converting
        a tensor to a float synchronises with the GPU and most values are never recorded.
        """
        self._step = step
        left = self._eta.left(step, steps)
        logged = bool(metrics) and (step % self.logging.metrics_every == 0 or step in (1, steps))
        kept = bool(metrics) and self.keeps_curve and curve.is_point(step, steps)
        values = records.plain_values(metrics) if logged or kept else {}
        if kept:
            self._record("curve", step=step, values=values)
        now = time.monotonic()
        if not logged and step < steps and now - self._last_progress < 1:
            return
        self._last_progress = now
        if logged:
            self._record("metrics", step=step, values=values)
            if self._console:
                self._console.values(values)
        self._record("progress", step=step, steps=steps, left=left)
        if self._console:
            self._console.step(step, steps, left)

    def status(self, text: str) -> None:
        """Show what the job does before its first step. It is not part of the result."""
        self._record("status", text=text)
        if self._console:
            self._console.status(text)

    def note(self, text: str) -> None:
        """Print and record a one-line note or warning. It is not part of the result."""
        self._record("note", text=text)
        if self._console:
            self._console.note(text)

    def fractions(self, fractions: dict[str, float]) -> None:
        """Record the fraction of the run time spent on each activity. It is not part of the result."""
        self._fractions = fractions

    def image(self, name: str, image, step: int | None = None, keep: bool = False) -> Path:
        """Save an image, (3, H, W) or (H, W, 3) in [0, 1], as a preview, and copy it to preview.png.

        The output contains the previews to `keep`. Which ones it contains must not depend on `logging`.
        """
        step = self._step if step is None else step
        path = self.state / PREVIEW / f"{name}-{step:06d}.png"
        save_png(path, image)
        _copy(path, self.state / "preview.png")
        if keep:
            _copy(path, self.state / _KEPT / path.name)
        self._record("image", name=name, step=step, file=f"{PREVIEW}/{path.name}")
        return path

    def video(self, name: str, frames) -> Path:
        """Save frames (N, 3, S, S) in [0, 1] as a video in the preview folder and return its path."""
        from prolific_core.visualisation import write_video

        path = self.state / PREVIEW / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames)
        self._record("file", file=f"{PREVIEW}/{path.name}")
        return path

    @cached_property
    def device(self):
        """Device to compute on. The first access sets the number of threads and torch's algorithms."""
        return machine.set_up_torch(self.system.threads, self.system.device, self.system.deterministic)

    def _record(self, kind: str, **values) -> None:
        if self._records:
            self._records.write(kind, **values)

    # Execution

    def discard_checkpoint(self) -> None:
        """Delete the checkpoint of a finished run."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def run(self, body: Callable[["Job"], dict | None], console: Console | None = None) -> dict:
        """Run the function `body`, move its output to the final folder and return the metrics."""
        with locks.hold(self.state / "lock", f"{self.title} is already running; wait for it or stop it first"):
            key = self.key  # Computing the key checks the inputs before anything is written.
            if not self.final.exists() and self._restore_unrecorded():
                return read_json(self.final / METRICS)
            resumes = self.checkpoint.is_dir() and any(self.checkpoint.iterdir())
            if not resumes:
                for folder in (PREVIEW, _KEPT):
                    shutil.rmtree(self.state / folder, ignore_errors=True)
            loading = time.monotonic() - self._began
            self._records = records.Records(self.state / "records.jsonl", key, loading)
            self._console = console
            try:
                if "torch" in sys.modules:
                    self.device  # noqa: B018 (sets threads and determinism before the computation starts)
                self.measure(**(body(self) or {}))
                self._check_sources()
                self._finish()
            except BaseException:
                shutil.rmtree(self._partial, ignore_errors=True)
                raise
            finally:
                if console:
                    console.close()
            # If the checkpoint outlived the end of the records, the next run would resume and lose the curve before it.
            self.discard_checkpoint()
            self._report(time.monotonic() - self._began + self._records.earlier)
            self._records.close()
        return self._metrics

    def _check_sources(self) -> None:
        """Raise an error if parameters or code were edited while the job ran.

        DVC reads them after the run, so it would take the result for that of the edited files.
        """
        if self.read_again().sources != self.sources:
            raise EditedWhileRunning(
                f"{self.title}: its parameters or its code were edited while it ran; run the same command again"
            )

    def _restore_unrecorded(self) -> bool:
        """Restore the output of a finished run that DVC was prevented from recording, and return whether there is one.

        Its records are complete, so nothing is written to them.
        """
        copy = unrecorded.find(self.state / "finished", self.key, self.lock_file)
        if copy is None or manifest.damaged_files(copy):
            return False
        unrecorded.link_tree(copy, self.output)
        self.output.replace(self.final)
        return True

    def _finish(self) -> None:
        """Write the metrics, previews and manifest, then move the complete output to its final folder."""
        write_json(self.output / METRICS, self._metrics)
        curve.write(self.output, self.state / "records.jsonl")
        for path in sorted((self.state / _KEPT).glob("*.png")):
            _copy(path, self.output / PREVIEW / path.name)
        models = {"models": self._model_digests} if self.models else {}
        made_by = {"stage": self.name, **self.subject, "parameters": self.parameters, "inputs": self._inputs, **models}
        manifest.write(self.output, made_by)
        if "DVC_STAGE" in os.environ:
            unrecorded.keep(self.output, self.state / "finished", self.key)
        if self.final.exists():  # DVC deletes the old output before a run, so this happens only without DVC.
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
        if (gpu := machine.peak_gpu_memory_mb()) is not None:
            usage["peak_gpu_memory_mb"] = gpu
        if self._fractions:
            usage["fractions"] = {name: round(fraction, 3) for name, fraction in self._fractions.items()}
        write_json(self.state / "run.json", usage)
        self._record("end", metrics=self._metrics, manifest=digest(self.final / manifest.NAME), **usage)


def _copy(source: Path, target: Path) -> None:
    with atomically(target) as temporary:
        shutil.copyfile(source, temporary)


def note_failure(state: Path, line: str, status: int) -> None:
    """Save a failure to a file.

    A flow that runs this process through DVC reads the file, because DVC hides the exit status.
    """
    with contextlib.suppress(OSError):  # The reported failure, such as a full disk, may also prevent this write.
        write_json(state / "failure.json", {"message": line, "status": status})


def save_png(path: Path, image) -> None:
    """Write an image as a PNG file.

    The image is a tensor or array, (3, H, W) or (H, W, 3), with floats in [0, 1] or bytes.
    """
    import numpy as np
    from PIL import Image

    array = image.detach().float().cpu().numpy() if hasattr(image, "detach") else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array).clip(0, 1) * 255).round().astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    with atomically(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG")
