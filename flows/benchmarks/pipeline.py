"""`prolific bench pipeline`: what Prefect, DVC and MLflow add to the stages they run, each in a scratch copy of the project.

Everything is on in what is timed: server, tracker, reports. Only `noop` and `sweep` have other stages
than the project's own: ones that make a file and sleep.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flows.benchmarks import scratch_project
from flows.orchestration import prefect_server
from prolific_core.errors import ProlificError
from tasks.runtime.project import STAGES, Project

GOALS = {
    "stage_overhead_s": (2.5, "of a stage by `prolific generate`, over `python -m tasks.runtime.stage`; preset tiny"),
    "rerun_s": (15.0, "`prolific generate` of a finished prompt"),
    "rerun_with_server_s": (5.0, "the same, with a Prefect server running"),
    "noop_10_s": (4.0, "`dvc repro` over 10 finished prompts"),
    "noop_100_s": (30.0, "the same over 100"),
    "sweep_efficiency": (0.85, "16 prompts, 4 workers, stages that sleep 10 s: ideal time over the sweep's"),
    "head_memory_mb": (600.0, "of the sweep's own process, at most"),
}
AT_LEAST = {"sweep_efficiency"}
METRICS = {  # which function finds which numbers
    "tiny": ("stage_overhead_s", "rerun_s", "rerun_with_server_s"),
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
from tasks import stage
from tasks.runtime.project import STAGES, Project

for id in sys.argv[1:]:
    for name in STAGES:
        stage.run(Project.find(), name, id)
"""


def bench(project: Project, names: list[str], say: Callable[[str], None] = lambda text: None) -> dict[str, float]:
    """The numbers of `GOALS` that the measures named (keys of METRICS) find."""
    metrics = {
        "tiny": tiny,
        "noop_10": lambda project: {"noop_10_s": noop(project, 10)},
        "noop_100": lambda project: {"noop_100_s": noop(project, 100)},
        "sweep": lambda project: sweep(project, prompts=16, workers=4, seconds=10.0),
    }
    found = {}
    for name in names:
        say(name)
        found |= metrics[name](project)
    return found


def tiny(project: Project) -> dict[str, float]:
    """One prompt of the real stages by a shell, another by `prolific generate`; then that again."""
    with _scratch(project, weights=True) as root:
        _run(
            root, "flows.cli.main", "generate", "a red mug", "--preset", "tiny"
        )  # databases and caches are made once, not per run
        ids = _add(root, ["a red cube", "a blue cube"])
        commands = " && ".join(f"{sys.executable} -m tasks.runtime.stage {name} {ids[0]}" for name in STAGES)
        bare = _seconds(lambda: _shell(root, commands, PROLIFIC_TRACKER="off"))
        again = lambda **settings: _seconds(
            lambda: _run(root, "flows.cli.main", "generate", "a blue cube", "--preset", "tiny", **settings)
        )  # noqa: E731
        whole, rerun = again(), again()
        with _server(root) as url:
            again(PREFECT_API_URL=url)  # the server's own first requests are slow
            served = again(PREFECT_API_URL=url)
    return {"stage_overhead_s": (whole - bare) / len(STAGES), "rerun_s": rerun, "rerun_with_server_s": served}


def noop(project: Project, count: int) -> float:
    """Seconds of `dvc repro` in the root over `count` finished prompts."""
    with _scratch(project, sleep=0.0) as root:
        ids = _add(root, [f"a red mug {number}" for number in range(count)])
        subprocess.run([sys.executable, "-c", MAKE, *ids], cwd=root, env=_quiet(), check=True, capture_output=True)
        _run(root, "tasks.dvc_pipeline.cli", "commit", "--force", *(f"prompts/{id}/dvc.yaml" for id in ids))
        _run(root, "tasks.dvc_pipeline.cli", "repro")  # the gallery
        return min(_seconds(lambda: _run(root, "tasks.dvc_pipeline.cli", "repro")) for _ in range(2))


def sweep(project: Project, prompts: int, workers: int, seconds: float) -> dict[str, float]:
    """A sweep whose stages sleep: the time it could take at best over what it takes, and its own process's memory."""
    with _scratch(project, sleep=seconds) as root:
        _add(root, [f"a red mug {number}" for number in range(prompts)])
        with _server(root):
            pass  # its database is made once, not per sweep
        began = time.monotonic()
        process = scratch_project.start(root, "flows.cli.main", "sweep", "--workers", str(workers))
        head, most = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                most = max(most, head.memory_info().rss)
            except psutil.Error:
                pass  # it ended meanwhile
            time.sleep(0.2)
        took = time.monotonic() - began
        _check(process, process.stdout.read())
    ideal = -(-prompts // workers) * len(STAGES) * seconds
    return {"sweep_efficiency": ideal / took, "head_memory_mb": most / 2**20}


def table(numbers: dict[str, float]) -> str:
    lines = ["| number | value | goal | of |", "|---|---|---|---|"]
    for name, value in numbers.items():
        goal, of = GOALS[name]
        reached = value >= goal if name in AT_LEAST else value <= goal
        bound = f"{goal:g} or {'more' if name in AT_LEAST else 'less'}{'' if reached else ': not reached'}"
        lines.append(f"| {name} | {value:.2f} | {bound} | {of} |")
    return "\n".join(lines)


def as_json(numbers: dict[str, float]) -> str:
    return json.dumps({name: round(value, 3) for name, value in numbers.items()})


@contextmanager
def _scratch(project: Project, weights: bool = False, sleep: float | None = None) -> Iterator[Path]:
    """A copy of the project; with `sleep`, its stages make a file after so many seconds."""
    folder = Path(tempfile.mkdtemp(prefix="prolific-bench-"))
    try:
        root = scratch_project.copy(project.root, folder / "clone", weights=weights)
        if sleep is not None:
            for name in STAGES:
                (root / "tasks" / f"{name}.py").write_text(SLEEPER.format(seconds=sleep))
            toybox = root / "prolific_core" / "toybox" / "weights"
            toybox.mkdir()
            (toybox / "model_index.json").write_text("{}")  # there, and nothing of it is read
        yield root
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _add(root: Path, texts: list[str]) -> list[str]:
    """Put prompts on file in a copy; their ids."""
    (root / "bench.txt").write_text("\n".join(texts) + "\n")
    _run(root, "flows.cli.main", "prompts", "import", "bench.txt", "--preset", "tiny")
    return (root / "prompts" / "bench.txt").read_text().split()


@contextmanager
def _server(root: Path) -> Iterator[str]:
    started = prefect_server.start(root / ".state" / "bench-server.log", home=root / ".state" / "prefect")
    if started is None:
        raise ProlificError("no Prefect server came up to measure with")
    url, stop = started
    try:
        yield url
    finally:
        stop()


def _quiet() -> dict[str, str]:
    return {**scratch_project.environment(), "PROLIFIC_TRACKER": "off"}


def _run(root: Path, *command: str, **settings: str) -> None:
    process = scratch_project.start(root, *command, **settings)
    output, _ = process.communicate()
    _check(process, output)


def _shell(root: Path, commands: str, **settings: str) -> None:
    subprocess.run(
        ["sh", "-c", commands],
        cwd=root,
        env={**scratch_project.environment(), **settings},
        check=True,
        capture_output=True,
    )


def _check(process: subprocess.Popen, output: str) -> None:
    if process.returncode:
        last = (output.strip().splitlines() or ["no output"])[-1]
        raise ProlificError(f"`{' '.join(process.args[2:])}` failed in the scratch copy: {last}")


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
