"""Every call that changes a file fails once, or from then on, and no half-written result is ever taken for a whole one.

The n-th call fails, for every n until a run passes (the method of SQLite's own tests).
"""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from flows.orchestration import preflight, run_status
from flows.orchestration.run_status import RunStatus
from prolific_core import checkpoint
from prolific_core.files import write_json
from tasks.dvc_pipeline import pipeline
from tasks.guided import state_file
from tasks.runtime import machine, records
from tasks.runtime.manifest import damaged_files
from tasks.runtime.project import Project
from tasks.runtime.stage import Stage

ID = "a-red-mug"
CALLS = [
    (os, "replace"),
    (os, "fsync"),
    (os, "chmod"),
    (tempfile, "mkstemp"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "write_bytes"),
    (shutil, "rmtree"),
    (records.Records, "write"),
]


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    """Keep stages in this process from changing torch's settings."""
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: "cpu")


class Fault:
    """Replacement of a function whose n-th call fails, and all later ones too if `lasting`."""

    def __init__(self, monkeypatch, owner, name: str, n: int, lasting: bool):
        self.left, self.lasting, self.function = n, lasting, getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: self.call(*args, **kwargs))

    def call(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0 or (self.lasting and self.left < 0):
            raise OSError(errno.EIO, "Input/output error")
        return self.function(*args, **kwargs)

    @property
    def reached(self) -> bool:
        return self.left <= 0


def body(stage: Stage) -> dict:
    """A training of ten steps that saves every third one."""
    path, state = state_file(stage), {"step": 0, "sum": torch.zeros(3)}
    if path.exists():
        state = checkpoint.load(path)
    for step in range(state["step"], 10):
        state = {"step": step + 1, "sum": state["sum"] + torch.arange(3.0) * step}
        stage.progress(step + 1, 10, loss=1.0 / (step + 1))
        if step % 3 == 2:
            checkpoint.save(path, state)
    write_json(stage.output / "result.json", state["sum"].tolist())
    return {"quality": float(state["sum"].sum())}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(("owner", "name"), CALLS, ids=[name for _, name in CALLS])
def test_a_stage(project: Project, monkeypatch, owner, name, lasting):
    Stage(project, "initialise", ID).run(body)
    final = project.output(ID, "initialise")
    whole, n, reached = contents(final), 0, True
    while reached:
        n += 1
        assert n < 100, "the stage never passes"
        shutil.rmtree(final)
        with monkeypatch.context() as patched:
            fault = Fault(patched, owner, name, n, lasting)
            with contextlib.suppress(OSError):
                Stage(project, "initialise", ID).run(body)
            reached = fault.reached
        assert not final.exists() or (damaged_files(final) == {} and contents(final) == whole), n
        if not final.exists():
            Stage(project, "initialise", ID).run(body)
            assert contents(final) == whole, n
        assert not [path.name for path in final.parent.iterdir() if path != final], n
    assert n > 1 or name == "rmtree"


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(("owner", "name"), CALLS[:7], ids=[name for _, name in CALLS[:7]])
def test_the_files_of_a_prompt(project: Project, monkeypatch, owner, name, lasting):
    folder, n, reached = project.prompt_folder(ID), 0, True
    before = contents(folder)
    prompt = project.prompt(ID)
    while reached:
        n += 1
        shutil.rmtree(folder)
        (project.state / ID / "status.json").unlink(missing_ok=True)
        with monkeypatch.context() as patched:
            fault = Fault(patched, owner, name, n, lasting)
            with contextlib.suppress(OSError):
                pipeline.write(project, prompt)
                run_status.write(project, ID, RunStatus("done"))
            reached = fault.reached
        for path, data in contents(folder).items() if folder.exists() else ():
            assert data == before[path], n  # each file is absent or whole
        status = run_status.read(project, ID)
        assert status in (None, RunStatus("done"))
        pipeline.write(project, prompt)
        assert contents(folder) == before and preflight.check(project, ID).prompt == prompt
