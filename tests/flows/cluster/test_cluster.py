"""Twelve prompts on three workers in clones of their own, with real servers of which some fail (`make test-cluster`).

The stages sleep, unless CLUSTER_STAGES=real is set: then they make models with the preset `tiny`. CLUSTER_PROMPTS sets
the number of prompts. The numbers that it prints are in docs/cluster.md.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from flows.benchmarks import scratch_project
from flows.orchestration.prefect_server import STRING, URL
from tasks.runtime.project import STAGES
from tests.conftest import ROOT, Clone, clone_with_fakes
from tests.support import cluster_servers, clusters, namespaces

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not cluster_servers.POSTGRES, reason="PostgreSQL is not installed"),
]
PROMPTS = int(os.environ.get("CLUSTER_PROMPTS", "12"))
REAL = os.environ.get("CLUSTER_STAGES") == "real"
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
AWAY = 60  # seconds without MLflow, and without a worker's network
LEASE = 120  # seconds after which the prompt of a worker that does not answer is given to another

# Every stage notes that it runs, and works for two seconds if it is a fake.
NOTE = """
import os, time
with open(os.environ["RAN"], "a") as log:
    print(stage.project.root, stage.id, stage.name, file=log)
"""
SLEEP = "time.sleep(2)\n"
NOTED = f"""
_compute = run

def run(stage):{textwrap.indent(NOTE, "    ")}
    return _compute(stage)
"""
# Makes all prompts in one process, without DVC and Prefect: the single machine.
SINGLE = """
from tasks.runtime import stage
from tasks.runtime.project import STAGES, Project
project = Project.find()
for id in project.prompt_ids():
    for name in STAGES:
        stage.run(project, name, id)
"""


def clone_that_sleeps(folder: Path) -> Clone:
    clone = clone_with_fakes(folder)
    for stage in STAGES:
        clone.trouble(stage, NOTE + SLEEP)
    shutil.rmtree(clone.root / "prompts" / "a-red-mug")
    return clone


def clone_that_computes(folder: Path) -> Clone:
    clone = Clone(scratch_project.copy(ROOT, folder, weights=True))
    for stage in STAGES:
        with open(clone.root / "tasks" / f"{stage}.py", "a") as file:
            file.write(NOTED)
    return clone


class Cluster:
    """Servers, a head and workers, with the environment of each."""

    def __init__(self, folder: Path):
        self.folder, self.network = folder, namespaces.Network()
        self.postgres = cluster_servers.Postgres()
        keys = {"AWS_ACCESS_KEY_ID": "prolific", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update(keys)
        self.store = cluster_servers.object_store(folder)
        import boto3

        endpoint = self.address(self.store)
        client = boto3.client("s3", endpoint_url=endpoint)
        for bucket in ("dvc", "mlflow"):
            client.create_bucket(Bucket=bucket)
        self.head = clone_that_computes(folder / "head") if REAL else clone_that_sleeps(folder / "head")
        texts = [f"a {COLOURS[n % 6]} {('mug', 'chair', 'cube')[n // 6]}" for n in range(PROMPTS)]
        (self.head.root / "texts.txt").write_text("\n".join(texts))
        added = self.head.prolific("prompts", "import", "texts.txt", "--preset", "tiny", "--force")
        assert added.returncode == 0, added.stderr
        self.repository = clusters.make_remotes(self.head.root, folder, "s3://dvc", endpointurl=endpoint)
        clusters.git(self.head.root, "push", "--quiet", "origin", "HEAD:main")
        clusters.git(self.repository, "symbolic-ref", "HEAD", "refs/heads/main")
        self.git = cluster_servers.GitServer(folder)
        self.origin = self.address(self.git, "git") + "/repository.git"
        clusters.git(self.head.root, "remote", "set-url", "origin", self.origin)
        self.prefect = cluster_servers.prefect(folder, self.head.root, self.postgres)
        self.mlflow = cluster_servers.mlflow(folder, self.postgres, self.store)
        home = self.head.root / ".state" / "prefect"
        self.environment = {
            **keys,
            URL: f"{self.address(self.prefect)}/api",
            STRING: (home / "auth_string").read_text(),
            "MLFLOW_TRACKING_URI": self.address(self.mlflow),
            "PROLIFIC_TRACKER": "flow",
            "PROLIFIC_LEASE_SECONDS": str(LEASE),
            "RAN": str(folder / "ran"),
        }
        self.workers: list[subprocess.Popen] = []

    def address(self, server: cluster_servers.Server, scheme: str = "http") -> str:
        """Return the address of a server, which all machines of the network reach."""
        self.network.forward(server.port)
        return f"{scheme}://{self.network.address}:{server.port}"

    def start_worker(self) -> None:
        number = len(self.workers) + 1
        folder, there = self.folder / f"worker{number}", self.network.add(number)
        clusters.git(self.folder, "clone", "--quiet", self.origin, str(folder))
        with open(f"{folder}.log", "wb") as log:
            self.workers.append(
                subprocess.Popen(
                    [*there, sys.executable, "-m", "flows.cli.main", "worker", "--pool", "clones"],
                    cwd=folder,
                    env={**os.environ, **self.environment, "PREFECT_HOME": str(folder / ".prefect")},
                    stdout=log,
                    stderr=log,
                )
            )

    def ran(self) -> list[list[str]]:
        path = self.folder / "ran"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def done(self) -> int:
        return len(clusters.git(self.repository, "for-each-ref", "refs/prolific/prompts").splitlines())

    def stop(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(90)
        for server in (self.prefect, self.mlflow, self.store, self.git, self.postgres):
            server.stop()
        self.network.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


def kill(process: subprocess.Popen) -> None:
    """Kill a worker with all that it has started, as if its machine had lost power."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_lost_and_nothing_done_twice(cluster, monkeypatch, capsys):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    head, began = cluster.head, time.monotonic()
    deployed = head.prolific("deploy", "--pool", "clones", "--type", "process")
    assert deployed.returncode == 0, deployed.stderr
    for _ in range(3):
        cluster.start_worker()
    log = cluster.folder / "sweep.log"
    with open(log, "wb") as file:
        sweep = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "sweep", "--pool", "clones"],
            cwd=head.root,
            stdout=file,
            stderr=file,
        )
    events, peak = [], 0

    def until(condition, what: str) -> None:
        nonlocal peak
        while not condition():
            assert sweep.poll() is None, log.read_text()
            assert time.monotonic() - began < 7200, (what, log.read_text())
            peak = max(peak, psutil.Process(sweep.pid).memory_info().rss)
            time.sleep(1)
        events.append(f"{time.monotonic() - began:.0f} s: {what}")

    first = str(cluster.folder / "worker1")
    until(
        lambda: any(root.startswith(first) and name == "geometry" for root, _, name in cluster.ran()), "worker 1 killed"
    )
    kill(cluster.workers[0])
    lost = [(id, name) for root, id, name in cluster.ran() if root.startswith(first)][-1]
    until(lambda: cluster.done() >= PROMPTS // 4, "Prefect's server stopped")
    cluster.prefect.stop()
    time.sleep(5)
    cluster.prefect.start()
    events.append(f"{time.monotonic() - began:.0f} s: Prefect's server is back")
    until(lambda: cluster.done() >= PROMPTS // 2, "MLflow stopped")
    cluster.mlflow.stop()
    time.sleep(AWAY)
    cluster.mlflow.start()
    events.append(f"{time.monotonic() - began:.0f} s: MLflow is back")
    if cluster.network.real:
        until(lambda: cluster.done() >= PROMPTS * 2 // 3, "the cable of worker 2 unplugged")
        cluster.network.connect(2, "down")
        time.sleep(AWAY)
        cluster.network.connect(2, "up")
        events.append(f"{time.monotonic() - began:.0f} s: worker 2 is connected again")
    while sweep.poll() is None:
        peak = max(peak, psutil.Process(sweep.pid).memory_info().rss)
        time.sleep(1)
    assert sweep.returncode == 0, log.read_text()
    took = time.monotonic() - began
    assert f"{PROMPTS} prompts: {PROMPTS} done" in log.read_text()

    # Each stage ran once, except for those of the prompt that was lost with its worker.
    ran = [(id, name) for _, id, name in cluster.ran()]
    twice = {one for one in ran if ran.count(one) > 1}
    assert {id for id, _ in twice} <= {lost[0]}
    assert len(set(ran)) == PROMPTS * len(STAGES)

    # DVC runs nothing on the head.
    before = len(cluster.ran())
    repro = head.run("tasks.dvc_pipeline.cli", "repro", *[f"prompts/{id}/dvc.yaml" for id in {id for id, _ in ran}])
    assert repro.returncode == 0, repro.stdout + repro.stderr
    assert len(cluster.ran()) == before

    # The bytes are those of a single machine.
    single = cluster.folder / "single"
    clusters.git(cluster.folder, "clone", "--quiet", str(cluster.repository), str(single))
    own = {"RAN": os.devnull, "PROLIFIC_ROOT": str(single), "PYTHONPATH": str(single)}
    subprocess.run([sys.executable, "-c", SINGLE], cwd=single, env={**os.environ, **own}, check=True)
    files = contents(single / "runs")
    assert contents(head.root / "runs") == files
    assert len(files) > PROMPTS * len(STAGES)

    # MLflow has one run per stage, with one point per recorded step. All prompts have the same number of steps.
    points = runs_in_mlflow(cluster)
    expected = next(iter(points.values())) if REAL else {name: [1, 5, 10] for name in STAGES}
    assert points == dict.fromkeys({id for id, _ in ran}, expected)
    assert all(len(set(steps)) == len(steps) for steps in expected.values()) and expected["nerf"]
    secrets = [cluster.postgres.password, cluster.environment[STRING]]
    written = [log, *cluster.folder.glob("worker*.log"), *(head.root / "reports").glob("*")]
    assert not [path for path in written for secret in secrets if secret in path.read_text(errors="replace")]
    numbers = {
        "prompts": PROMPTS,
        "stages": "real" if REAL else "sleeping",
        "network namespaces": cluster.network.real,
        "seconds": round(took),
        "stages run": len(ran),
        "stages run twice": len(ran) - len(set(ran)),
        "head_memory_mb": round(peak / 2**20),
        "files compared": len(files),
        "events": events,
    }
    with capsys.disabled():
        print(json.dumps(numbers, indent=2))


def runs_in_mlflow(cluster: Cluster) -> dict[str, dict[str, list[int]]]:
    """Return, for each prompt and stage, the steps of the curve of its only run."""
    from mlflow import MlflowClient

    client = MlflowClient(cluster.environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()], max_results=5000)
    parents = {run.info.run_id: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    assert len(parents) == PROMPTS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == PROMPTS * (1 + len(STAGES))
    found: dict[str, dict[str, list[int]]] = {}
    for run in runs:
        if parent := run.data.tags.get("mlflow.parentRunId"):
            points = client.get_metric_history(run.info.run_id, "loss")
            id, stage = parents[parent].data.tags["prompt_id"], run.data.tags["stage"]
            assert stage not in found.setdefault(id, {})
            found[id][stage] = sorted(point.step for point in points)
    return found
