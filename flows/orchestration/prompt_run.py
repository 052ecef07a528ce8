"""Run of one prompt: bring its stages up to date, write its report and send its records to MLflow.

This module does not import Prefect. If nothing must run, a command therefore needs neither Prefect nor its server.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.orchestration import dvc_runner, preflight, run_status
from flows.orchestration.dvc_runner import StageResult
from flows.orchestration.run_status import RunStatus
from flows.prompt_store import sets
from flows.reporting import gallery, report
from prolific_core.files import read_json
from tasks.dvc_pipeline import pipeline
from tasks.runtime import records
from tasks.runtime.console import announce
from tasks.runtime.failures import explain
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import STAGES, Project, ResolvedPrompt
from tasks.tracking.prompt_runs import PromptRuns
from tasks.tracking.tracker import Tracker, prepare

RunStages = Callable[[Tracker, list[str]], list[StageResult]]


@dataclass(frozen=True)
class Result:
    """Result of a prompt's run, with the files, metrics and stages of the finished model.

    `seconds` is the sum over the stages, or None if the time of a stage is not known.
    """

    id: str
    seconds: float | None
    peak_memory_mb: float | None
    stages: list[StageResult]
    glb: Path
    turntable: Path
    report: Path
    metrics: dict
    page: str | None  # URL of the run in MLflow's UI

    def json(self) -> str:
        values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "page"}
        stages = {done.stage: {k: v for k, v in asdict(done).items() if k != "stage"} for done in self.stages}
        return json.dumps(values | {"stages": stages})


def bring_up_to_date(project: Project, id: str, sweep: list[str] | None, run_stages: RunStages) -> Result:
    """Bring a prompt up to date with the given function that runs stages, and record the status of the run.

    If this run is part of a sweep, `sweep` contains the names that were passed to the sweep.
    """
    began = time.monotonic()
    with _lock(project, id):
        run_status.write(project, id, RunStatus("running"))
        try:
            prompt = preflight.check(project, id)
            preflight.repair(project, id)
            prepare()
            result = _make(prompt, sweep, run_stages)
        except Exception as error:
            message = (explain(error) or f"{type(error).__name__}: {error}").splitlines()[0]
            log = str(error.log.relative_to(project.root)) if isinstance(error, dvc_runner.StageFailed) else ""
            seconds = round(time.monotonic() - began, 2)
            run_status.write(project, id, RunStatus("failed", message, log, seconds))
            raise
        run_status.write(project, id, RunStatus("done", seconds=result.seconds))
    return result


def advance(project: Project, id: str, last: str, run_stages: RunStages) -> list[StageResult]:
    """Bring the stages of a prompt up to and including `last` up to date. No report is written.

    The status of the prompt does not change, because its model is not finished.
    """
    with _lock(project, id):
        prompt = preflight.check(project, id)
        preflight.repair(project, id)
        prepare()
        pipeline.refresh(project, prompt.prompt)
        with Tracker(project, PromptRuns(prompt)) as tracker:
            names = list(STAGES)
            return run_stages(tracker, names[: names.index(last) + 1])


def finished(project: Project, id: str) -> Result | None:
    """Return the result of a prompt of which no stage must run, or None if a stage must run.

    DVC compares parameters, inputs and code, as before every run. The report is written again, and MLflow is sent what
    it has not received yet.
    """
    if project.finished_stages(id) < len(STAGES):
        return None
    announce(f"{id}: checking with DVC what must run")
    with _lock(project, id):
        prompt = preflight.check(project, id)
        preflight.repair(project, id)
        pipeline.refresh(project, prompt.prompt)
        stages = list(STAGES)
        if dvc_runner.finished(project, prompt, stages) != set(stages):
            return None
        runs = PromptRuns(prompt)
        with TemporaryDirectory() as folder, Tracker(project, runs) as tracker:
            page, files = _write_pages(prompt, runs, Path(folder))
            if not tracker.is_delivered(stages, runs.metrics, files):
                for stage in stages:
                    tracker.sync_stage(stage, cached=True)
                tracker.finish(runs.metrics, files)
        results = [dvc_runner.cached(runs, stage) for stage in stages]
        result = _result(runs, results, page, tracker.address())
        run_status.write(project, id, RunStatus("done", seconds=result.seconds))
    return result


def _make(prompt: ResolvedPrompt, sweep: list[str] | None, run_stages: RunStages) -> Result:
    project, group = prompt.project, None if sweep is None else sets.group(prompt.project, sweep)
    runs = PromptRuns(prompt, group)
    pipeline.refresh(project, prompt.prompt)
    with TemporaryDirectory() as folder, Tracker(project, runs) as tracker:
        stages = run_stages(tracker, list(STAGES))
        page, files = _write_pages(prompt, runs, Path(folder))
        tracker.finish(runs.metrics, files)
    return _result(runs, stages, page, tracker.address())


def _write_pages(prompt: ResolvedPrompt, runs: PromptRuns, folder: Path) -> tuple[Path, list[Path]]:
    """Write the report and the gallery, and return the report's path and the files for MLflow.

    One of these files is a copy of the report in `folder` that needs no other file.
    """
    page = report.write(prompt)
    gallery.write(prompt.project)
    return page, [*runs.files, report.export(prompt, folder / page.name)]


def _result(runs: PromptRuns, stages: list[StageResult], page: Path, address: str | None) -> Result:
    peaks = [stage.peak_memory_mb for stage in stages if stage.peak_memory_mb]
    total = records.total_seconds(stage.seconds for stage in stages)
    metrics = read_json(runs.output("evaluate") / "metrics.json")
    glb, turntable = runs.files[:2]
    return Result(runs.name, total, max(peaks, default=None), stages, glb, turntable, page, metrics, address)


def _lock(project: Project, id: str):
    def waiting(message: str) -> None:
        print(f"prolific: {message}", file=sys.stderr, flush=True)

    return prompt_lock(project, id, waiting, dvc_runner.stopping.is_set)
