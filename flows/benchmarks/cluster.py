"""Benchmark of a sweep over many prompts on a pool of workers with clones of their own (`prolific bench cluster`).

The head, Prefect's server, git and DVC are real. The workers are threads that sleep for the time of a prompt and then
hand over results that were made before, so that the head's own cost remains.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from flows.benchmarks import pipeline, results, scratch_project
from flows.benchmarks.results import Goal
from flows.cluster import git, handover, revision, workspace
from tasks.runtime.project import Project

POOL = "bench"
GOALS = {
    "scheduling_s": Goal(None, 0.3, "time per prompt beyond that of the workers (s)"),
    "head_memory_mb": Goal(None, 600, "peak memory of the sweep's process (MB)"),
    "noop_sweep_s": Goal(None, 60, "`prolific sweep --pool` over the finished prompts (s)"),
    "efficiency": Goal(0.95, None, "ideal time / actual time"),
}


def bench(
    project: Project, prompts: int, workers: int, seconds: float, note: Callable[[str], None] = lambda text: None
) -> dict[str, float]:
    """Run a sweep over `prompts` prompts on `workers` workers that take `seconds` for each.

    Args:
        project: The project, of which a scratch copy is made.
        prompts: Number of prompts.
        workers: Number of simulated workers.
        seconds: Time that a worker takes for a prompt.
        note: Function called with the name of each part before it starts.
    """
    with pipeline.scratch(project, sleep=0.0) as root:
        note(f"making the results of {prompts} prompts")
        ids = pipeline.add(root, [f"a red mug {number}" for number in range(prompts)])
        made = _make(root, ids)
        with pipeline.server(root) as client:
            settings = {**client, "PROLIFIC_TRACKER": "off"}
            os.environ.update(client)  # of the simulated workers
            pipeline.run(root, "flows.cli.main", "deploy", "--pool", POOL, "--type", "process", **settings)
            note(f"sweeping over them with {workers} workers")
            work = _Workers(root, made, workers, seconds)
            with work:
                took, memory = _sweep(root, settings)
            note("sweeping over them again")
            again, _ = _sweep(root, settings)
    ideal = -(-prompts // workers) * seconds
    return {
        "prompts": prompts,
        "workers": workers,
        "scheduling_s": round((took - ideal) / prompts, 3),
        "head_memory_mb": round(memory, 1),
        "noop_sweep_s": round(again, 1),
        "efficiency": round(ideal / took, 3),
    }


def table(numbers: dict[str, float]) -> str:
    """Return a Markdown table of the metrics and their goals."""
    return results.goal_table(numbers, GOALS)


def _make(root: Path, ids: list[str]) -> Path:
    """Make all prompts, push them to a DVC remote, and move the small files that describe them to a folder."""
    subprocess.run(
        [sys.executable, "-c", pipeline.MAKE, *ids], cwd=root, env=pipeline.quiet(), check=True, capture_output=True
    )
    pipelines = [f"prompts/{id}/dvc.yaml" for id in ids]
    pipeline.run(root, "tasks.dvc_pipeline.cli", "commit", "--force", *pipelines)
    subprocess.run(["git", "init", "--quiet", "--bare", str(root.parent / "repository.git")], check=True)
    pipeline.run(root, "tasks.dvc_pipeline.cli", "remote", "add", "--default", "store", str(root.parent / "store"))
    pipeline.run(root, "tasks.dvc_pipeline.cli", "push", *pipelines)
    made = root.parent / "made"
    for id in ids:
        (made / id).mkdir(parents=True)
        for name in ("dvc.yaml", "dvc.lock"):
            shutil.move(root / "prompts" / id / name, made / id / name)
    for name in ("runs", ".state", ".dvc/cache"):
        shutil.rmtree(root / name, ignore_errors=True)
    git.git(root, "remote", "add", git.REMOTE, str(root.parent / "repository.git"))
    git.git(root, "add", ".")
    commit = ("-c", "user.name=Prolific", "-c", "user.email=prolific@localhost", "commit", "--quiet", "-m", "A project")
    git.git(root, *commit)
    return made


class _Workers:
    """Threads that take scheduled runs from the pool, sleep, and hand over results that were made before."""

    def __init__(self, root: Path, made: Path, count: int, seconds: float):
        self.made, self.seconds = made, seconds
        self.commit = revision.publish(Project(root))
        self.project = Project(root.parent / "worker")
        workspace.prepare(self.project.root, str(root.parent / "repository.git"), self.commit)
        self._guard, self._ended = threading.Lock(), threading.Event()
        self._taken: set = set()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.states import Completed, Pending, Running

        with get_client(sync_client=True) as client:
            while not self._ended.wait(0.1):
                run = self._take(client)
                if run is None:
                    continue
                client.set_flow_run_state(run.id, Pending())
                client.set_flow_run_state(run.id, Running())
                began = time.monotonic()
                self._hand_over(run.parameters["id"])
                time.sleep(max(0.0, self.seconds - (time.monotonic() - began)))
                client.set_flow_run_state(run.id, Completed())

    def _take(self, client):
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

        scheduled = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled", "Late"]))
        with self._guard:
            found = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=scheduled), limit=50)
            run = next((run for run in found if run.id not in self._taken and run.work_pool_name == POOL), None)
            if run is not None:
                self._taken.add(run.id)
        return run

    def _hand_over(self, id: str) -> None:
        with self._guard:
            for name in ("dvc.yaml", "dvc.lock"):
                shutil.copyfile(self.made / id / name, self.project.prompt_folder(id) / name)
            commit = handover.make_commit(self.project, id, self.commit, complete=True)
            git.transfer(self.project.root, "push", "--quiet", git.REMOTE, f"{commit}:{git.prompt_ref(id)}")


def _sweep(root: Path, settings: dict[str, str]) -> tuple[float, float]:
    """Run the sweep, and return its time in seconds and its peak memory in megabytes."""
    began, most = time.monotonic(), 0
    process = scratch_project.start(root, "flows.cli.main", "sweep", "--pool", POOL, **settings)
    head = psutil.Process(process.pid)
    reader = threading.Thread(target=lambda: said.append(process.communicate()[0]))
    said: list[str] = []
    reader.start()
    while process.poll() is None:
        with suppress(psutil.Error):  # the process may have ended in the meantime
            most = max(most, head.memory_info().rss)
        time.sleep(0.2)
    reader.join()
    pipeline.check(process, said[0])
    return time.monotonic() - began, most / 2**20
