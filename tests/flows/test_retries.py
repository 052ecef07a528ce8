"""Stages that were interrupted are tried once more, with a Prefect server and without one."""

import pytest

from flows.generate import run_stage
from flows.orchestration import dvc_runner, prefect_runtime
from flows.orchestration.dvc_runner import StageFailed, StageInterrupted
from prolific_core.errors import ProlificError
from tasks.runtime import machine
from tasks.runtime.console import Console
from tasks.tracking.tracker import Tracker

# The first process that imports the module is killed before the stage has recorded anything.
KILLED_AT_IMPORT = """
import os
from pathlib import Path
if not Path("killed").exists():
    Path("killed").touch()
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def tracker(project, monkeypatch):
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: "cpu")
    with Tracker(project, "a-red-mug") as tracker:
        yield tracker


def run(tracker):
    return dvc_runner.run(tracker.project, "initialise", tracker, Console("a-red-mug initialise"))


def test_a_stage_that_is_killed_before_its_first_record_may_be_retried(clone, tracker):
    clone.edit("tasks/initialise.py", "\n", KILLED_AT_IMPORT)
    with pytest.raises(StageInterrupted, match="was killed"):
        run(tracker)
    assert clone.ran() == [] and not run(tracker).cached


def test_a_stage_that_cannot_start_is_not_retried(clone, tracker):
    clone.edit("tasks/initialise.py", "\n", "import a_module_that_is_missing\n")
    with pytest.raises(StageFailed, match="a_module_that_is_missing") as caught:
        run(tracker)
    assert not caught.value.temporary


def test_without_a_prefect_server_an_interrupted_stage_is_tried_once_more(clone, tracker, monkeypatch):
    monkeypatch.setattr(prefect_runtime, "_offline", True)
    clone.edit("tasks/initialise.py", "\n", KILLED_AT_IMPORT)
    done = prefect_runtime.run_task(run_stage, "initialise", tracker, False, False)
    assert not done.cached and clone.ran() == ["initialise"]
    (clone.root / "killed").unlink()
    (clone.root / "ran.log").unlink()
    clone.trouble("initialise", "import os\nos.kill(os.getpid(), 9)")
    clone.edit("tasks/initialise.py", "step", "Step")
    with pytest.raises(StageInterrupted):
        prefect_runtime.run_task(run_stage, "initialise", tracker, False, False)
    assert clone.ran() == ["initialise"]  # killed at the import, and then by its trouble


def test_an_error_that_is_not_temporary_is_raised_at_once(monkeypatch):
    monkeypatch.setattr(prefect_runtime, "_offline", True)
    calls = []

    class Task:
        retries = 1

        @staticmethod
        def fn():
            calls.append(1)
            raise ProlificError("no")

    with pytest.raises(ProlificError):
        prefect_runtime.run_task(Task(), *())  # pyright: ignore[reportArgumentType]
    assert calls == [1]
