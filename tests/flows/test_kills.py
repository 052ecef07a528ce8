"""Stages that are killed and started again end with the same bytes as stages that are not."""

import json
import shutil
import subprocess
import sys

import pytest

from flows.prompt_store import create
from tasks.runtime.project import STAGES, Project
from tests.conftest import ROOT, Clone, copy_project
from tests.support import tiny_pipeline


@pytest.fixture
def clones(tmp_path) -> tuple[Clone, Clone]:
    """Two copies of a project with one tiny prompt, whose stages write a checkpoint every other step."""
    first = Clone(copy_project(tmp_path / "whole"))
    tiny_pipeline.make(first.root / "prior")
    first.edit("params.yaml", "path: toybox", "path: prior")
    first.edit("params.yaml", "checkpoint_every: 100", "checkpoint_every: 2")
    create.file_prompt(Project(first.root), "something", id="thing", preset="tiny")
    shutil.copytree(first.root, tmp_path / "killed")
    return first, Clone(tmp_path / "killed")


def files(clone: Clone) -> dict[str, bytes]:
    runs = clone.root / "runs"
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in sorted(runs.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "kills", [pytest.param(10, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.faults)]
)
def test_killed_stages_end_in_the_same_bytes(clones, kills):
    whole, killed = clones
    script = [
        sys.executable,
        "-m",
        "tests.support.killed_stages",
        str(whole.root),
        str(killed.root),
        "thing",
        str(kills),
        "6",
    ]
    done = subprocess.run(script, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert sum(said["kills"].values()) == kills and min(said["kills"].values()) >= 1 and said["resumed"] >= kills // 10
    assert files(killed) == files(whole) and {path.split("/")[1] for path in files(whole)} == set(STAGES)
