"""Flow that turns one prompt into a textured model and a report."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.orchestration import artifacts, dvc_runner, preflight, run_status
from flows.orchestration.dvc_runner import StageResult
from flows.orchestration.prefect_runtime import run_task
from flows.orchestration.run_status import RunStatus
from flows.prompt_store import create, sets, vocabulary
from flows.reporting import report
from prolific_core import prompts
from prolific_core.files import read_json
from prolific_core.prompts import DEFAULT_PRESET
from tasks.dvc_pipeline import pipeline
from tasks.runtime.console import new_console
from tasks.runtime.failures import explain
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import STAGES, Project, ResolvedPrompt
from tasks.tracking.prompt_runs import PromptRuns
from tasks.tracking.tracker import Tracker, prepare


@dataclass(frozen=True)
class Result:
    """Result of the flow `generate`, with the files, metrics and stages of the finished model."""

    id: str
    seconds: float
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


def _print_waiting(message: str) -> None:
    print(f"prolific: {message}", file=sys.stderr, flush=True)


def _run_name() -> str:
    parameters = flow_run.parameters
    return (parameters.get("id") or parameters.get("text") or "generate")[:60]


def _may_succeed(task, run, state) -> bool:
    """Return whether a retry may succeed.

    This is the case if the stage was killed or its files were locked.
    """
    try:
        state.result()
    except (dvc_runner.DvcLocked, dvc_runner.StageKilled):
        return not dvc_runner.stopping.is_set()
    except BaseException:
        return False
    return False


# Prefect does not cache results, because its local cache could contradict DVC's.
@flow(flow_run_name=_run_name, persist_result=False)
def generate(
    id: str | None = None,
    text: str | None = None,
    preset: str = DEFAULT_PRESET,
    seed: int = 0,
    sweep: list[str] | None = None,
) -> Result:
    """Generate the model of an existing prompt, given by its id, or of a new prompt, given by its text.

    Finished stages are not run again, and an interrupted run resumes. If this run is part of a sweep, `sweep` contains
    the names that were passed to the sweep.
    """
    began = time.monotonic()
    project = Project.find()
    if id is None:
        accept = vocabulary.acceptance(project, ask=False)  # nobody watches a worker
        id = create.file_prompt(project, text or "", preset=preset, seed=seed, accept=accept).id
    prompts.check_id(id)
    with prompt_lock(project, id, _print_waiting, dvc_runner.stopping.is_set):
        run_status.write(project, id, RunStatus("running"))
        try:
            prompt = preflight.check(project, id)
            preflight.repair(project, id)
            result = _make(prompt, sweep, began)
        except Exception as error:
            message = (explain(error) or f"{type(error).__name__}: {error}").splitlines()[0]
            log = str(error.log.relative_to(project.root)) if isinstance(error, dvc_runner.StageFailed) else ""
            run_status.write(project, id, RunStatus("failed", message, log, _seconds_since(began)))
            raise
        run_status.write(project, id, RunStatus("done", seconds=result.seconds))
    return result


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=_may_succeed,
)
def run_stage(stage: str, tracker: Tracker, cached: bool, upstream: bool) -> StageResult:
    """Run a stage with DVC, unless it is `cached`, and send its records to MLflow."""
    console = new_console.get()(stage)
    if cached:
        tracker.sync_stage(stage, cached=True)
        done = StageResult(stage, True, 0.0, None)
    else:
        done = dvc_runner.run(tracker.project, stage, tracker, console, upstream)
    console.done(_describe(done), done.cached)
    return done


def run_stages(tracker: Tracker, stages: list[str]) -> list[StageResult]:
    """Run stages of the tracker's subject in order and return their results. This must be called within a flow."""
    finished = dvc_runner.finished(tracker.project, tracker.subject, stages)
    # For the last stage, DVC checks all earlier stages again, because their files may have been edited meanwhile.
    return [run_task(run_stage, stage, tracker, stage in finished, stage == stages[-1]) for stage in stages]


def _make(prompt: ResolvedPrompt, sweep: list[str] | None, began: float) -> Result:
    project, group = prompt.project, None if sweep is None else sets.group(prompt.project, sweep)
    runs = PromptRuns(prompt, group)
    pipeline.refresh(project, prompt.prompt)
    prepare()
    with Tracker(project, runs) as tracker:
        stages = run_stages(tracker, list(STAGES))
        page = report.write(prompt)
        metrics = read_json(prompt.output("evaluate") / "metrics.json")
        tracker.finish(runs.metrics, runs.files)
        address = tracker.address()
    if address:
        artifacts.link(f"mlflow-{prompt.id}", address, f"{prompt.id} in MLflow (prolific ui)")
    peaks = [stage.peak_memory_mb for stage in stages if stage.peak_memory_mb]
    seconds = _seconds_since(began)
    glb, turntable = runs.files[:2]
    return Result(prompt.id, seconds, max(peaks, default=None), stages, glb, turntable, page, metrics, address)


def _seconds_since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _describe(done: StageResult) -> str:
    if done.cached:
        return "up to date"
    return f"{done.seconds:.0f} s" + (f", {done.peak_memory_mb:.0f} MB" if done.peak_memory_mb else "")
