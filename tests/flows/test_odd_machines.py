"""Machines with long paths or bad databases, without shared memory or a home, with jumping clocks or little memory."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from flows.prompt_store import create
from tasks.runtime import machine
from tasks.runtime.project import STAGES
from tasks.runtime.root import MAX_BYTES
from tasks.runtime.stage import Stage
from tests.conftest import clone_with_fakes
from tests.flows.test_kills import files
from tests.support.paths import path_of

pytestmark = pytest.mark.faults


def test_the_longest_path(tmp_path, made_once):
    clone = clone_with_fakes(path_of(tmp_path, MAX_BYTES))
    done = clone.prolific("sweep", "a-red-mug")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(clone) == files(made_once)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_without_shared_memory(clone, made_once):
    """Hide /dev/shm in a mount namespace of its own."""
    command = 'umount /dev/shm || mount --bind /proc/self/fd /dev/shm; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-m", "flows.cli.main", "sweep", "a-red-mug"],
        cwd=clone.root,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(clone) == files(made_once)


@pytest.mark.parametrize("home", [["HOME=/nonexistent"], ["-u", "HOME"]], ids=["missing", "unset"])
def test_without_a_home(clone, made_once, home):
    command = ["env", *home, sys.executable, "-m", "flows.cli.main", "sweep", "a-red-mug"]
    done = subprocess.run(command, cwd=clone.root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(clone) == files(made_once)


def damage(database, kind: str) -> None:
    """Overwrite a SQLite database, or all of its pages but the first three."""
    data = bytearray(database.read_bytes() if database.exists() else 300_000)
    first = 0 if kind == "garbage" else 3 * 4096
    data[first:] = random.Random(1).randbytes(len(data) - first)
    database.parent.mkdir(parents=True, exist_ok=True)
    database.write_bytes(data)
    for name in ("-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["garbage", "pages"])
def test_a_damaged_database_of_prefect_stops_nothing(clone, made_once, prefect_home, kind):
    home = clone.root / ".state" / "prefect"
    home.mkdir(parents=True)
    if kind == "pages":
        shutil.copy(prefect_home / "prefect.db", home)
    damage(home / "prefect.db", kind)
    done = clone.prolific("sweep", "a-red-mug", PREFECT_HOME=str(home))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "the Prefect server did not start (see .state/prefect/server.log); continuing without it" in done.stderr
    assert files(clone) == files(made_once)


@pytest.mark.parametrize("kind", ["garbage", "pages", "locked"])
def test_a_database_of_mlflow_that_cannot_be_used_gets_its_records_later(
    clone, project, made_once, prefect_server, kind
):
    from mlflow import MlflowClient

    environment = {**prefect_server, "PROLIFIC_TRACKER": "flow"}
    database = clone.root / ".state" / "mlflow" / "mlflow.db"
    create.file_prompt(project, "a red mug", id="other")
    first = clone.prolific("sweep", "other", **environment)  # creates the database
    assert first.returncode == 0, first.stdout + first.stderr
    whole = database.read_bytes()
    lock = sqlite3.connect(database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE") if kind == "locked" else damage(database, kind)
    done = clone.prolific("sweep", "a-red-mug", **environment)
    lock.close()
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "is not reachable; the run continues, and its records are kept and sent by the next run" in done.stderr
    assert "[SQL:" not in done.stderr
    mug = {path: content for path, content in files(clone).items() if path.startswith("a-red-mug/")}
    assert mug == files(made_once)
    if kind != "locked":
        database.write_bytes(whole)
    assert clone.prolific("sweep", "a-red-mug", **environment).returncode == 0
    client = MlflowClient(f"sqlite:///{database}")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags.get("stage", "") for run in runs) == sorted(2 * ["", *STAGES])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_clock_that_jumps(project, monkeypatch):
    """The clock goes back by a day in the middle of a stage, and forward by a year between two runs."""
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: "cpu")
    now, jump = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + jump[0])

    def body(stage, broken: bool = False) -> dict:
        for step in range(1, 11):
            stage.progress(step, 10, loss=1 / step)
            jump[0] -= 86400.0
            if broken and step == 5:
                raise RuntimeError("broken off")
        (stage.output / "result.json").write_text("1")
        return {"quality": 1.0}

    stage = Stage(project, "initialise", "a-red-mug")
    with pytest.raises(RuntimeError, match="broken off"):
        stage.run(lambda stage: body(stage, broken=True))
    jump[0] += 365 * 86400.0
    assert Stage(project, "initialise", "a-red-mug").run(body) == {"quality": 1.0}


def test_a_stage_with_too_little_memory(clone):
    """Limit a stage's address space; the failure is one line, and nothing is left of its output."""
    limit = "resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))"
    clone.trouble("nerf", f"import resource, numpy; {limit}; numpy.ones(1 << 32)")
    done = clone.prolific("sweep", "a-red-mug")
    assert done.returncode == 1
    assert "out of memory; use a smaller preset" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert [path.name for path in (clone.root / "runs" / "a-red-mug").iterdir()] == ["initialise"]
