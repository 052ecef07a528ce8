"""Two prompts on a pool whose workers share nothing with the head; one worker is stopped in the middle of a stage."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from flows.cluster import pools
from flows.orchestration import deploy
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import STAGES, Project
from tests.support import clusters

# Every stage notes that it runs.
NOTE = """
import os
with open(os.environ["RAN"], "a") as log:
    print(os.environ["WORKER"], stage.id, stage.name, file=log)
"""
# Every stage notes that it runs.
NOTE = """
import os
with open(os.environ["RAN"], "a") as log:
    print(os.environ["WORKER"], stage.id, stage.name, file=log)
"""
# The stage "nerf" of one prompt writes a checkpoint and waits; the worker that has the checkpoint goes on.
WAIT = """
import os, time
from pathlib import Path
if stage.id == "a-blue-mug":
    checkpoint = stage.checkpoint / "step"
    if not checkpoint.exists():
        checkpoint.write_text("5")
        Path(os.environ["STARTED"]).touch()
        time.sleep(300)
    Path(os.environ["STARTED"]).with_name("resumed").write_text(checkpoint.read_text())
"""


def start_worker(folder: Path, repository: Path, **environment: str) -> subprocess.Popen:
    """Start Prefect's worker as `prolific worker` does, with a clone of its own in a folder."""
    command = f"prefect worker start --pool clones --type process --limit 1 --name {folder.name}"
    own = {
        "PROLIFIC_ROOT": str(Path(pools.__file__).parents[2]),
        "PROLIFIC_WORKSPACE": str(folder),
        "WORKER": folder.name,
        "PROLIFIC_REPOSITORY": str(repository),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    log = open(f"{folder}.log", "wb")  # noqa: SIM115
    return subprocess.Popen(
        [sys.executable, "-m", *command.split()], env={**os.environ, **own, **environment}, stdout=log, stderr=log
    )


def test_another_worker_continues_from_the_checkpoint_and_the_head_runs_nothing(
    clone, tmp_path, prefect_server, monkeypatch
):
    for name, value in {
        **prefect_server,
        "PROLIFIC_ROOT": str(clone.root),
        "STARTED": str(tmp_path / "started"),
        "RAN": str(tmp_path / "ran"),
    }.items():
        monkeypatch.setenv(name, value)
    for stage in STAGES:
        clone.trouble(stage, NOTE + (WAIT if stage == "nerf" else ""))
    project = Project(clone.root)
    pipeline.write(project, dataclasses.replace(project.prompt("a-red-mug"), id="a-blue-mug", text="a blue mug"))
    repository = clusters.make_remotes(clone.root, tmp_path)
    monkeypatch.setattr(deploy, "PATIENCE", 120)
    pools.create(project, "clones", pools.PoolType.PROCESS)
    monkeypatch.delenv("PROLIFIC_ROOT")

    first, second = tmp_path / "first", tmp_path / "second"
    sweep = clone.start("flows.cli.main", "sweep", "--pool", "clones")
    worker = start_worker(first, repository)
    try:
        end = time.monotonic() + 600
        while not (tmp_path / "started").exists():
            assert time.monotonic() < end, Path(f"{first}.log").read_text()
            time.sleep(0.2)
        deploy._stop([worker])  # as `prolific worker` does when it receives SIGTERM
        worker = start_worker(second, repository)
        said, errors = sweep.communicate(timeout=900)
    finally:
        sweep.kill()
        deploy._stop([worker])
    assert sweep.returncode == 0, said + errors + Path(f"{second}.log").read_text()
    assert "2 prompts: 2 done" in said
    runs = [tuple(line.split()) for line in (tmp_path / "ran").read_text().splitlines()]
    assert ("first", "a-blue-mug", "initialise") in runs
    assert [run for run in runs if run[1:] == ("a-blue-mug", "nerf")] == [
        ("first", "a-blue-mug", "nerf"),
        ("second", "a-blue-mug", "nerf"),
    ]
    assert sorted(name for _, _, name in runs) == sorted([*STAGES, *STAGES, "nerf"])
    assert (tmp_path / "resumed").read_text() == "5"

    ids = ("a-red-mug", "a-blue-mug")
    count = len(runs)
    done = clone.run("tasks.dvc_pipeline.cli", "repro", *(f"prompts/{id}/dvc.yaml" for id in ids))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "ran").read_text().splitlines()) == count
    assert sorted(os.listdir(clone.root / "reports")) == sorted(f"{id}.html" for id in ids)
    assert clusters.git(repository, "for-each-ref", "--format=%(refname)", "refs/heads") == ""
