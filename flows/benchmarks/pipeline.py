"""Overhead benchmark of Prefect, DVC and MLflow (`prolific bench pipeline`).

The benchmark runs in scratch copies of the project. All timed `prolific` commands use a Prefect server, track their
runs with MLflow and write reports. The benchmarks `noop` and `sweep` replace the project's stages with stages that only
sleep and write a file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import psutil

from flows.benchmarks import results, scratch_project
from flows.benchmarks.results import Goal
from flows.orchestration import prefect_server
from prolific_core.errors import ProlificError
from tasks.runtime.project import STAGES, Project

GOALS = {
    "stage_overhead_s": Goal(None, 2.5, "`prolific generate`: overhead per stage (s)"),
    "rerun_s": Goal(None, 5, "`prolific generate` of a finished prompt (s of processor time)"),
    "noop_10_s": Goal(None, 4, "`dvc repro` of 10 finished prompts (s)"),
    "noop_100_s": Goal(None, 30, "`dvc repro` of 100 finished prompts (s)"),
    "sweep_efficiency": Goal(0.85, None, "sweep of 16 prompts by 4 workers: ideal time / actual time"),
    "head_memory_mb": Goal(None, 600, "peak memory of the sweep's process (MB)"),
}
METRICS = {  # metric names of each benchmark
    "tiny": ("stage_overhead_s", "rerun_s"),
    "noop_10": ("noop_10_s",),
    "noop_100": ("noop_100_s",),
    "sweep": ("sweep_efficiency", "head_memory_mb"),
}
SLEEPER = """
import time

def run(stage):
    time.sleep({seconds})
    for name in {{"export": ["mesh.glb"], "evaluate": ["turntable.mp4", "contact.png"]}}.get(stage.name, ["result"]):
        (stage.output / name).write_text(f"{{stage.prompt.text}} {{name}}")
    return {{"quality": 0.5}}
"""
MAKE = """
import sys
from tasks.runtime import stage
from tasks.runtime.project import STAGES, Project

for id in sys.argv[1:]:
    for name in STAGES:
        stage.run(Project.find(), name, id)
"""


def bench(project: Project, names: list[str], note: Callable[[str], None] = lambda text: None) -> dict[str, float]:
    """Run the named benchmarks (keys of METRICS) and return their metrics.

    `note` is called with the name of each benchmark before it starts.
    """
    benchmarks = {
        "tiny": tiny,
        "noop_10": lambda project: {"noop_10_s": noop(project, 10)},
        "noop_100": lambda project: {"noop_100_s": noop(project, 100)},
        "sweep": lambda project: sweep(project, prompts=16, workers=4, seconds=10.0),
    }
    found = {}
    for name in names:
        note(name)
        found |= {metric: round(value, 3) for metric, value in benchmarks[name](project).items()}
    return found


def tiny(project: Project) -> dict[str, float]:
    """Measure the overhead per stage of `prolific generate` and the processor time of a second run with nothing to do.

    The overhead is the additional time compared with running the same stages from a shell.
    """
    with scratch(project, weights=True) as root:

        def generate(text: str) -> None:
            run(root, "flows.cli.main", "generate", text, "--preset", "tiny")

        generate("a red mug")  # creates the databases and caches before the measurement
        ids = add(root, ["a red cube", "a blue cube"])
        commands = " && ".join(f"{sys.executable} -m tasks {name} {ids[0]}" for name in STAGES)
        bare = _seconds(lambda: _shell(root, commands, PROLIFIC_TRACKER="off"))
        whole = _seconds(lambda: generate("a blue cube"))
        before = os.times()
        generate("a blue cube")
        after = os.times()
    rerun = after.children_user + after.children_system - before.children_user - before.children_system
    return {"stage_overhead_s": (whole - bare) / len(STAGES), "rerun_s": rerun}


def noop(project: Project, count: int) -> float:
    """Measure the time in seconds of `dvc repro` on the root pipeline with `count` finished prompts."""
    with scratch(project, sleep=0.0) as root:
        ids = add(root, [f"a red mug {number}" for number in range(count)])
        subprocess.run([sys.executable, "-c", MAKE, *ids], cwd=root, env=quiet(), check=True, capture_output=True)
        run(root, "tasks.dvc_pipeline.cli", "commit", "--force", *(f"prompts/{id}/dvc.yaml" for id in ids))
        run(root, "tasks.dvc_pipeline.cli", "repro")  # creates the gallery
        return min(_seconds(lambda: run(root, "tasks.dvc_pipeline.cli", "repro")) for _ in range(2))


def sweep(project: Project, prompts: int, workers: int, seconds: float) -> dict[str, float]:
    """Measure the efficiency and the peak memory of a sweep whose stages only sleep."""
    with scratch(project, sleep=seconds) as root:
        add(root, [f"a red mug {number}" for number in range(prompts)])
        with server(root):
            pass  # creates the database before the measurement
        began = time.monotonic()
        process = scratch_project.start(root, "flows.cli.main", "sweep", "--workers", str(workers))
        head, most = psutil.Process(process.pid), 0
        while process.poll() is None:
            with suppress(psutil.Error):  # the process may have ended in the meantime
                most = max(most, head.memory_info().rss)
            time.sleep(0.2)
        took = time.monotonic() - began
        check(process, process.communicate()[0])
    ideal = -(-prompts // workers) * len(STAGES) * seconds
    return {"sweep_efficiency": ideal / took, "head_memory_mb": most / 2**20}


def table(numbers: dict[str, float]) -> str:
    """Return a Markdown table of the metrics and their goals."""
    return results.goal_table(numbers, GOALS)


@contextmanager
def scratch(project: Project, weights: bool = False, sleep: float | None = None) -> Iterator[Path]:
    """Copy the project to a temporary folder and yield its path.

    If `sleep` is given, each stage is replaced with one that sleeps for `sleep` seconds and writes a file.
    """
    folder = Path(tempfile.mkdtemp(prefix="prolific-bench-"))
    try:
        root = scratch_project.copy(project.root, folder / "clone", weights=weights)
        if sleep is not None:
            for name in STAGES:
                (root / "tasks" / f"{name}.py").write_text(SLEEPER.format(seconds=sleep))
            toybox = root / "prolific_core" / "toybox" / "weights"
            toybox.mkdir()
            (toybox / "model_index.json").write_text("{}")  # the file must exist but is not read
        yield root
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add(root: Path, texts: list[str]) -> list[str]:
    """Import prompts into a scratch copy and return their ids."""
    (root / "bench.txt").write_text("\n".join(texts) + "\n")
    run(root, "flows.cli.main", "prompts", "import", "bench.txt", "--preset", "tiny", "--force")
    return (root / "prompts" / "bench.txt").read_text().split()


@contextmanager
def server(root: Path) -> Iterator[dict[str, str]]:
    started = prefect_server.start(root / ".state" / "bench-server.log", home=root / ".state" / "prefect")
    if started is None:
        raise ProlificError("the Prefect server of the benchmark did not start")
    client, stop = started
    try:
        yield client
    finally:
        stop()


def quiet() -> dict[str, str]:
    return {**scratch_project.environment(), "PROLIFIC_TRACKER": "off"}


def run(root: Path, *command: str, **settings: str) -> None:
    process = scratch_project.start(root, *command, **settings)
    output, _ = process.communicate()
    check(process, output)


def _shell(root: Path, commands: str, **settings: str) -> None:
    subprocess.run(
        ["sh", "-c", commands],
        cwd=root,
        env={**scratch_project.environment(), **settings},
        check=True,
        capture_output=True,
    )


def check(process: subprocess.Popen, output: str) -> None:
    if process.returncode:
        last = (output.strip().splitlines() or ["no output"])[-1]
        raise ProlificError(f"`{' '.join(cast(list[str], process.args)[2:])}` failed in the scratch copy: {last}")


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
