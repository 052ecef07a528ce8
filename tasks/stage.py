"""One stage of one prompt, bound to files: what a stage body is given, and how it is run.

A stage body is `def run(stage: Stage) -> dict[str, float]` in tasks/<name>.py: it reads folders of
earlier stages, writes `stage.output`, and returns its measures. It is a pure function of its
parameters, inputs and code; everything that may differ between two equal runs (times, memory) goes
to .state/, never to runs/.

    python -m tasks.stage nerf a-red-mug
"""

import fcntl
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from prolific_core.config import Config
from prolific_core.errors import InputError, ProlificError
from prolific_core.prompts import Prompt, check_id
from tasks import machine, records
from tasks.console import Console
from tasks.project import STAGES, Project, code_of

MANIFEST = "manifest.json"
MEASURES = "measures.json"


class Stage:
    """What a stage body sees."""

    def __init__(self, project: Project, name: str, id: str):
        if name not in STAGES:
            raise InputError(f"no stage '{name}'; the stages are {', '.join(STAGES)}")
        self.project = project
        self.name = name
        self.id = id
        # Read once: a file edited while the stage runs changes nothing.
        self.prompt: Prompt = project.prompt(id)
        self.config: Config = project.config(self.prompt)
        self.state = project.stage_state(id, name)
        self._measures: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._inputs: dict[str, str] = {}
        self._step = 0
        self._pace = records.Pace()
        self._told = 0.0
        self._records: records.Records | None = None
        self._console: Console | None = None

    # What it reads

    @property
    def parameters(self) -> dict:
        """The sections its result depends on."""
        spec = STAGES[self.name]
        return {section: self.config.model_dump(mode="json")[section] for section in spec.sections(self.name)}

    def input(self, name: str) -> Path:
        """The finished folder of an earlier stage."""
        if name not in STAGES[self.name].inputs:
            raise ProlificError(
                f"stage '{self.name}' reads '{name}' but does not list it: add it to STAGES in tasks/project.py"
            )
        folder = self.project.output(self.id, name)
        self._inputs[name] = check_output(folder, f"runs/{self.id}/{name}", f"prolific stage {name} {self.id}")
        return folder

    @cached_property
    def key(self) -> str:
        """A hash of all that decides the result: parameters, prompt, inputs and code."""
        for name in STAGES[self.name].inputs:
            self.input(name)
        parts = {
            "parameters": self.parameters,
            "prompt": [self.prompt.text, self.prompt.seed],
            "inputs": self._inputs,
            "code": [_digest(self.project.root / path) for path in code_of(self.name)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    # What it writes

    @cached_property
    def output(self) -> Path:
        """A fresh folder; it becomes runs/<id>/<name> when the body has returned, and not before."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    @property
    def _partial(self) -> Path:
        return self.project.output(self.id, self.name).with_name(f".{self.name}.partial")

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
        """Numbers of the result, kept in measures.json; the same names everywhere."""
        self._measures |= {name: records.plain(value) for name, value in values.items()}

    # What it shows

    def progress(self, step: int, steps: int, **measures) -> None:
        """Called after every step, with the number of steps done: the bar, and the curves.

        Curves are written every `logging.measure_every` steps, so pass tensors as they are: most
        are never read, and a GPU need not wait.
        """
        self._step = step
        left = self._pace.left(step, steps)
        curve = bool(measures) and (step % self.config.logging.measure_every == 0 or step in (1, steps))
        now = time.monotonic()
        if not curve and step < steps and now - self._told < 1:
            return
        self._told = now
        if curve:
            values = {name: records.plain(value) for name, value in measures.items()}
            self._record("measures", step=step, values=values)
            if self._console:
                self._console.values(values)
        self._record("progress", step=step, steps=steps, left=left)
        if self._console:
            self._console.step(step, steps, left)

    def shares(self, shares: dict[str, float]) -> None:
        """How the time was spent, as shares of it by name; shown and recorded, never part of the result."""
        self._shares = shares

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

    @cached_property
    def device(self):
        """Where to compute (torch.device); setting it up fixes threads and determinism."""
        return machine.set_up_torch(self.config.system.threads, self.config.system.device)

    def _record(self, kind: str, **values) -> None:
        if self._records:
            self._records.write(kind, **values)

    # How it runs

    def run(self, body: Callable[["Stage"], dict | None], console: Console | None = None) -> dict:
        """Run the body and put its output in place, whole; the measures."""
        began = time.monotonic()
        with _only_one(self.state / "lock", f"stage '{self.name}' of '{self.id}'"):
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
        return self._measures

    def _finish(self) -> None:
        """Measures, then the manifest, then the name: what is half-written is never taken for whole."""
        write_json(self.output / MEASURES, self._measures)
        manifest = {
            "stage": self.name,
            "prompt": {"id": self.id, "text": self.prompt.text, "seed": self.prompt.seed, "preset": self.prompt.preset},
            "parameters": self.parameters,
            "inputs": self._inputs,
            "files": {
                path.relative_to(self.output).as_posix(): _digest(path)
                for path in sorted(self.output.rglob("*"))
                if path.is_file()
            },
        }
        write_json(self.output / MANIFEST, manifest)
        final = self.project.output(self.id, self.name)
        if final.exists():  # outside DVC, which removes it before the run
            old = final.with_name(f".{self.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            final.replace(old)
            self.output.replace(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.output.replace(final)

    def _report(self, seconds: float) -> None:
        device = str(self.device) if "torch" in sys.modules else "cpu"
        usage = {"seconds": round(seconds, 2), "peak_memory_mb": machine.peak_memory_mb(), "device": device}
        if self._shares:
            usage["shares"] = {name: round(share, 3) for name, share in self._shares.items()}
        write_json(self.state / "run.json", usage)
        manifest = _digest(self.project.output(self.id, self.name) / MANIFEST)
        self._record("end", measures=self._measures, manifest=manifest, **usage)


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
    for name, digest in files.items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise InputError(f"{shown}/{name} is not the file its stage wrote; make it again with: {command}")
    return _digest(manifest)


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


def _digest(path: Path) -> str:
    """sha256 of a file, or of a folder's names and contents; of nothing when it is missing."""
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(path).as_posix()} {_digest(file)}\n".encode())
    elif path.is_file():
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


class _only_one:
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


def run(project: Project, name: str, id: str) -> dict:
    """Run one stage by name, in this process; its measures."""
    stage = Stage(project, name, id)
    stage.key  # noqa: B018 (a missing input is told at once, before torch is loaded)
    os.chdir(project.root)  # where paths in the parameters start, wherever the command was given
    machine.threads(stage.config.system.threads)  # before the body's module imports torch
    body = importlib.import_module(f"tasks.{name}").run
    return stage.run(body, Console(f"{id} {name}"))


def main(arguments: list[str] | None = None) -> int:
    """`python -m tasks.stage NAME ID`, the command of every DVC stage."""
    from tasks.failures import reported

    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2:
        print(f"usage: python -m tasks.stage STAGE ID; the stages are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    machine.quiet()
    if "DVC_STAGE" in os.environ:
        machine.die_with_parent()

    def work() -> None:
        project = Project.find()
        if arguments[0] in STAGES:
            (project.stage_state(check_id(arguments[1]), arguments[0]) / "failure.json").unlink(missing_ok=True)
        run(project, *arguments)
        if os.environ.get("PROLIFIC_TRACKER") != "flow":  # whoever runs the flow sends the records itself
            from tasks import tracker

            tracker.sync(project, arguments[1], [arguments[0]])

    status = reported(work, note=lambda line, status: _note_failure(arguments, line, status))
    return status


def _note_failure(arguments: list[str], line: str, status: int) -> None:
    """For whoever waits for this process through DVC, which gives its own status and not ours."""
    try:
        folder = Project.find().stage_state(arguments[1], arguments[0])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "failure.json", {"message": line, "status": status})
    except (OSError, ProlificError):
        pass  # a full disk or no permission, most likely what we were about to note


if __name__ == "__main__":
    sys.exit(main())
