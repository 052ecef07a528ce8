"""Runs, kills, edits, removals and clean-ups of three prompts in any order end like one clean run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from flows.prompt_store import create, sets
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import STAGES, Project
from tests.conftest import Clone

PROMPTS = {"chair": "a blue chair", "car": "a green car", "ball": "a red ball"}


class Machine:
    """A clone with three prompts, and everything that a user may do to it."""

    def __init__(self, clone: Clone, chance: random.Random):
        self.clone, self.chance, self.project = clone, chance, Project(clone.root)
        self.steps = dict.fromkeys(PROMPTS, 10)
        for id in PROMPTS:
            self.add(id)

    def add(self, id: str) -> None:
        request = create.PromptRequest(PROMPTS[id], id, sections={"nerf": {"steps": self.steps[id]}})
        create.put(self.project, create.plan(self.project, request))

    def dvc(self, *command: str) -> subprocess.CompletedProcess:
        return self.clone.run("tasks.dvc_pipeline.cli", *command)

    def run(self, id: str) -> None:
        done = self.clone.prolific("sweep", id)
        print(done.stdout, done.stderr, sep="\n")
        assert done.returncode == 0

    def kill(self, id: str) -> None:
        """Kill a run with all its processes at a random moment."""
        running = subprocess.Popen(
            [sys.executable, "-m", "tasks.dvc_pipeline.cli", "repro", f"prompts/{id}/dvc.yaml"],
            cwd=self.clone.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(4 * self.chance.random())
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def edit(self, id: str) -> None:
        self.steps[id] = self.chance.choice([10, 20, 30])
        self.add(id)

    def remove(self, id: str) -> None:
        sets.remove(self.project, id)
        self.add(id)

    def lose(self, id: str) -> None:
        """Delete an output, or flip a bit of one of its files."""
        folder = self.project.output(id, self.chance.choice(list(STAGES)))
        if self.chance.random() < 0.5:
            shutil.rmtree(folder, ignore_errors=True)
        elif (folder / "result.json").is_file():
            data = bytearray((folder / "result.json").read_bytes())
            data[len(data) // 2] ^= 1
            (folder / "result.json").write_bytes(data)

    def pull(self, id: str) -> None:
        """Restore what was pushed, as in another clone. Nothing may have been pushed yet."""
        self.dvc("push", "--quiet", f"prompts/{id}/dvc.yaml")
        shutil.rmtree(self.project.root / "runs" / id, ignore_errors=True)
        shutil.rmtree(self.project.root / ".dvc" / "cache", ignore_errors=True)
        self.dvc("pull", "--quiet", f"prompts/{id}/dvc.yaml")

    def gc(self, id: str) -> None:
        self.dvc("gc", "--workspace", "--force", "--quiet")

    def results(self) -> dict[str, bytes]:
        runs = self.clone.root / "runs"
        return {path.relative_to(runs).as_posix(): path.read_bytes() for path in runs.rglob("*") if path.is_file()}


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_ends_like_a_clean_run(clone, tmp_path, seed):
    shutil.copytree(clone.root, tmp_path / "clean")
    remote = tmp_path / "remote"
    remote.mkdir()
    assert clone.run("dvc", "remote", "add", "--default", "local", str(remote)).returncode == 0
    chance = random.Random(seed)
    machine = Machine(clone, chance)
    actions = [machine.run, machine.kill, machine.edit, machine.remove, machine.lose, machine.pull, machine.gc]
    history = []
    for _ in range(24):
        action, id = chance.choices(actions, [4, 6, 3, 1, 3, 1, 1])[0], chance.choice(list(PROMPTS))
        history.append(f"{action.__name__} {id}")
        action(id)
        print(history[-1])
    last = clone.prolific("sweep")
    print(last.stdout, last.stderr, sep="\n")  # pytest shortens what an assertion compares
    assert last.returncode == 0, history
    assert clone.prolific("verify").returncode == 0, history

    clean = Machine(Clone(tmp_path / "clean"), chance)
    clean.steps = machine.steps
    for id in PROMPTS:
        clean.add(id)
        pipeline.refresh(clean.project, clean.project.prompt(id))
    assert clean.clone.prolific("sweep").returncode == 0
    assert machine.results() == clean.results(), history
    kept = yaml.safe_load((machine.project.prompt_folder("car") / "prompt.yaml").read_text())
    assert kept["nerf"] == {"steps": machine.steps["car"]}
