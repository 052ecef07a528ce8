"""Flow that turns one prompt into a textured model and a report."""

import functools
import os
from collections.abc import Callable

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.orchestration import artifacts, dvc_runner, prompt_run
from flows.orchestration.dvc_runner import StageResult
from flows.orchestration.prefect_runtime import RETRY_SECONDS, may_succeed, run_task
from flows.orchestration.prompt_run import Result
from flows.prompt_store import create, vocabulary
from prolific_core import prompts
from prolific_core.prompts import DEFAULT_PRESET
from tasks.runtime.console import new_console
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker


def _run_name() -> str:
    parameters = flow_run.parameters
    return (parameters.get("id") or parameters.get("text") or "generate")[:60]


# Prefect does not cache results, because its local cache could contradict DVC's.
@flow(flow_run_name=_run_name, persist_result=False)
def generate(
    id: str | None = None,
    text: str | None = None,
    preset: str = DEFAULT_PRESET,
    system: str = "",
    seed: int = 0,
    sweep: list[str] | None = None,
    revision: str | None = None,
) -> Result:
    """Generate the model of an existing prompt, given by its id, or of a new prompt, given by its text.

    Finished stages are not run again, and an interrupted run resumes. If this run is part of a sweep, `sweep` contains
    the names that were passed to the sweep. A worker without a shared disk runs the existing prompt `id` in the current
    folder, a clone that has `revision` checked out, and hands over what it makes.
    """
    if id is not None and revision is not None:
        return _generate_in_clone(id, sweep, revision)
    project = Project.find()
    if id is None:
        accept = vocabulary.acceptance(project, ask=False)  # nobody watches a worker
        id = create.file_prompt(project, text or "", preset=preset, system=system, seed=seed, accept=accept).id
    prompts.check_id(id)
    result = prompt_run.bring_up_to_date(project, id, sweep, run_stages)
    if result.page:
        artifacts.link(f"mlflow-{id}", result.page, f"{id} in MLflow (prolific ui)")
    return result


def _generate_in_clone(id: str, sweep: list[str] | None, revision: str) -> Result:
    from flows.cluster import worker_run

    os.environ["PROLIFIC_ROOT"] = os.getcwd()  # that of the worker is the clone from which it was started
    project = Project.find()
    with worker_run.own(project, prompts.check_id(id), revision) as after_stage:
        return prompt_run.bring_up_to_date(project, id, sweep, functools.partial(run_stages, after_stage=after_stage))


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=may_succeed,
)
def run_stage(stage: str, tracker: Tracker, cached: bool, upstream: bool) -> StageResult:
    """Run a stage with DVC, unless it is `cached`, and send its records to MLflow."""
    console = new_console.get()(stage)
    if cached:
        tracker.sync_stage(stage, cached=True)
        done = dvc_runner.cached(tracker.subject, stage)
    else:
        done = dvc_runner.run(tracker.project, stage, tracker, console, upstream)
    console.done(_describe(done), done.cached)
    return done


def run_stages(
    tracker: Tracker, stages: list[str], after_stage: Callable[[], None] = lambda: None
) -> list[StageResult]:
    """Run stages of the tracker's subject in order and return their results. This must be called within a flow."""
    finished = dvc_runner.finished(tracker.project, tracker.subject, stages)
    results = []
    for stage in stages:
        # For the last stage, DVC checks all earlier stages again, because their files may have been edited meanwhile.
        results.append(run_task(run_stage, stage, tracker, stage in finished, stage == stages[-1]))
        after_stage()
    return results


def _describe(done: StageResult) -> str:
    if done.cached:
        return "up to date"
    facts = [(done.seconds, "s"), (done.peak_memory_mb, "MB")]
    return ", ".join(f"{value:.0f} {unit}" for value, unit in facts if value is not None)
