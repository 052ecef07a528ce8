"""Fixtures: copies of this clone in which the six stages are quick fakes, and a Prefect server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The types and tensor shapes in the signatures of the core are checked at every call; this precedes its first import.
install_import_hook("prolific_core", "typecheck.checked")

from flows.benchmarks import scratch_project  # noqa: E402
from tasks.runtime import machine  # noqa: E402

machine.accept_interrupts()  # commands inherit it, and some tests interrupt them
machine.threads(1)  # before torch is imported: with tensors this small, two threads only wait for each other

ROOT = Path(__file__).parents[1]

FAKE = """
import json, os, time
from pathlib import Path
from tasks.runtime.project import STAGES

def run(stage):
    with open(stage.project.root / "ran.log", "a") as log:
        log.write(stage.name + "\\n")
    trouble = stage.project.root / f"trouble-{stage.name}.py"
    if trouble.exists():
        exec(trouble.read_text(), {"stage": stage})
    inherited = [(stage.input(name) / "result.json").read_text() for name in STAGES[stage.name].inputs]
    section = getattr(stage.config, stage.name).model_dump(mode="json")
    for step in range(1, 11):
        stage.progress(step, 10, loss=1 / step)
    (stage.output / "result.json").write_text(json.dumps([stage.prompt.text, stage.prompt.seed, section, inherited]))
    files = {"export": ["mesh.glb"], "evaluate": ["turntable.mp4", "contact.png"]}
    for name in files.get(stage.name, []):
        (stage.output / name).write_bytes(name.encode())
    return {"quality": 0.5}
"""


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory) -> Path:
    """Folder of Prefect's database, shared because Prefect takes 20 seconds of processor time to create it."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def prefect_server(prefect_home, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Prefect server for all tests that do not test its start, as the environment variables of its clients."""
    from flows.orchestration import prefect_server

    client, stop = prefect_server.start(tmp_path_factory.mktemp("server") / "log", home=prefect_home)
    yield client
    stop()


@pytest.fixture(autouse=True)
def quiet(monkeypatch, prefect_home):
    """Isolate a test from the user's settings and from tracking, and restore the working directory after it."""
    monkeypatch.chdir(ROOT)  # commands change into the project's folder, also those that a test runs in this process
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PROLIFIC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    monkeypatch.setenv("PROLIFIC_TRACKER", "off")


def copy_project(folder: Path) -> Path:
    """Copy the code, parameters and one prompt of this clone, without outputs, weights or history."""
    return scratch_project.copy(ROOT, folder, prompts=("a-red-mug",))


class Clone:
    """Project folder whose commands run as a user runs them: in processes of their own, in that folder."""

    def __init__(self, root: Path):
        self.root = root

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1800,
        )

    def prolific(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.run("flows.cli.main", *arguments, **environment)

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        """Start a command in the background, in a process group of its own, as a shell does."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stage(self, name: str, id: str = "a-red-mug", **environment: str) -> subprocess.CompletedProcess:
        return self.run("tasks", name, id, **environment)

    def repro(self, target: str = "prompts/a-red-mug/dvc.yaml") -> list[str]:
        """Run `dvc repro` and return the stages that ran."""
        (self.root / "ran.log").unlink(missing_ok=True)
        done = self.run("tasks.dvc_pipeline.cli", "repro", target)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.ran()

    def ran(self) -> list[str]:
        log = self.root / "ran.log"
        return log.read_text().split() if log.exists() else []

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    def trouble(self, stage: str, code: str) -> None:
        """Make a stage run this code first."""
        (self.root / f"trouble-{stage}.py").write_text(code)


@pytest.fixture
def clone(tmp_path) -> Clone:
    return clone_with_fakes(tmp_path / "it's a clône")


def clone_with_fakes(folder: Path) -> Clone:
    """Make a project whose stages are fakes."""
    root = copy_project(folder)
    from tasks.runtime.project import STAGES, Project

    for name in STAGES:
        (root / "tasks" / f"{name}.py").write_text(FAKE)
    from tasks.dvc_pipeline import pipeline

    weights = root / "prolific_core" / "toybox" / "weights"
    weights.mkdir()
    (weights / "model_index.json").write_text("{}")  # must exist, and is not read
    project = Project(root)
    pipeline.refresh(project, project.prompt("a-red-mug"))
    return Clone(root)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Clone:
    """Clone whose prompt has been made by DVC; tests use copies of it (`made`)."""
    clone = clone_with_fakes(tmp_path_factory.mktemp("made once") / "a clone")
    from tasks.runtime.project import STAGES

    assert clone.repro() == list(STAGES)
    return clone


@pytest.fixture(scope="module")
def made(made_once, tmp_path_factory) -> Clone:
    """Clone with a finished prompt, which is shared by the tests of a file, so each of them restores it."""
    folder = tmp_path_factory.mktemp("made") / "a clone"
    shutil.copytree(made_once.root, folder)
    return Clone(folder)


@pytest.fixture
def project(clone):
    """Project of `clone`, for tests that use it in this process."""
    from tasks.runtime.project import Project

    return Project(clone.root)
