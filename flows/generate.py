"""The flow of one prompt, from text to report."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.chain import chain
from flows.orchestration import (
    artifacts,
    dvc_runner,
    prefect_runtime,
    preflight,
    run_status,
)
from flows.orchestration.run_status import Outcome
from flows.prompt_store import sets
from flows.reporting import report
from prolific_core.prior.location import locate
from tasks.dvc_pipeline import pipeline
from tasks.runtime.console import Console
from tasks.runtime.failures import explain
from tasks.runtime.project import STAGES, Project
from tasks.tracking.prompt_runs import PromptRuns
from tasks.tracking.tracker import Tracker, prepare


@dataclass(frozen=True)
class Result:
    """What came of one prompt."""

    id: str
    seconds: float
    peak_memory_mb: float | None
    stages: list[dvc_runner.StageResult]
    glb: Path
    turntable: Path
    report: Path
    metrics: dict
    page: str | None  # of the run in MLflow's UI

    def json(self) -> str:
        values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "page"}
        values["stages"] = {done.pop("stage"): done for done in values["stages"]}
        return json.dumps(values)


def generate(
    project: Project, id: str, console: Callable[[str], Console] = Console, sweep: list[str] | None = None
) -> Result:
    """Run a prompt that is on file, from text to report, as a run of the flow `generate`.

    sweep: what the sweep that it is of names, if it is of one.
    """
    check(project, id)
    prefect_runtime.set_up(project)
    return prefect_runtime.as_flow("generate", id, lambda: make(project, id, console, sweep), sweep)


def check(project: Project, id: str) -> None:
    """A mistake in a file, a prior that is not there, or damage that needs a user is told before anything starts."""
    os.chdir(project.root)  # where paths in the parameters start, wherever the command was given
    locate(project.config(project.prompt(id)).prior.path)
    preflight.check(project, id)


def make(
    project: Project, id: str, console: Callable[[str], Console] = Console, sweep: list[str] | None = None
) -> Result:
    """The body of the flow; what is finished costs about a second a stage."""
    began = time.monotonic()
    check(project, id)

    def seconds() -> float:
        return round(time.monotonic() - began, 1)

    with run_status.prompt_lock(project, id, lambda text: print(f"prolific: {text}", file=sys.stderr, flush=True)):
        run_status.write(project, id, Outcome("running"))
        try:
            group = None if sweep is None else sets.group(project, sweep)
            result = _make(PromptRuns(project, id, group), console, seconds)
        except Exception as error:
            told = (explain(error) or f"{type(error).__name__}: {error}").splitlines()[0]
            log = str(error.log.relative_to(project.root)) if isinstance(error, dvc_runner.StageFailed) else ""
            run_status.write(project, id, Outcome("failed", told, log, seconds()))
            raise
        run_status.write(project, id, Outcome("done", seconds=result.seconds))
    return result


def _make(runs: PromptRuns, console: Callable[[str], Console], seconds: Callable[[], float]) -> Result:
    project, id = runs.project, runs.name
    pipeline.refresh(project, id)
    prepare()
    with Tracker(project, runs) as tracker:
        done = chain(project, tracker, list(STAGES), console)
        page = report.write(project, id)
        metrics = json.loads((project.output(id, "evaluate") / "metrics.json").read_text())
        tracker.finish(runs.metrics, runs.files)
        address = tracker.address()
    if address:
        artifacts.link(f"mlflow-{id}", address, f"{id} in MLflow (prolific ui)")
    peaks = [stage.peak_memory_mb for stage in done if stage.peak_memory_mb]
    return Result(id, seconds(), max(peaks, default=None), done, *runs.files[:2], page, metrics, address)
