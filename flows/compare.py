"""Flow of `prolific compare` in 3D, which brings the radiance field or the model of one prompt up to date."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

from prefect import flow
from prefect.runtime import flow_run

from flows.generate import run_stages
from flows.orchestration import dvc_runner, prompt_run
from flows.orchestration.dvc_runner import StageResult
from flows.orchestration.prefect_runtime import run_flow
from tasks.runtime.console import Console, new_console
from tasks.runtime.project import Project


def _run_name() -> str:
    return flow_run.parameters["id"][:60]


@flow(flow_run_name=_run_name, persist_result=False)
def compared_model(id: str, last: str) -> list[StageResult]:
    """Bring an existing prompt up to date, up to and including the stage `last`. An interrupted run resumes."""
    return prompt_run.advance(Project.find(), id, last, run_stages)


def bring_up_to_date(ids: list[str], last: str, workers: int, done: Callable[[str], None]) -> None:
    """Run the flow for many prompts, `workers` at the same time, and call `done` with the id of each.

    The first failure stops the comparison, and so does an interruption; finished stages and checkpoints are kept.
    """

    def run(id: str) -> str:
        new_console.set(lambda stage: Console(f"{id} {stage}"))  # applies to this thread only
        run_flow(compared_model, id, last)
        return id

    with ThreadPoolExecutor(max(1, min(workers, len(ids)))) as executor:
        futures = [executor.submit(run, id) for id in ids]
        try:
            for future in as_completed(futures):
                done(future.result())
        except BaseException:
            dvc_runner.stopping.set()
            executor.shutdown(cancel_futures=True)
            raise
