"""Machines with long paths, without shared memory, with a jumping clock or too little memory."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from tasks.runtime import machine
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
