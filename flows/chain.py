"""Stages in order, each a Prefect task that asks DVC to bring it up to date.

Prefect is imported late, inside: its surroundings (flows/orchestration/prefect_runtime.py) come first.
"""

from collections.abc import Callable

from flows.orchestration import dvc_runner, prefect_runtime
from tasks.runtime.console import Console
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker

PAUSE = 2.0  # seconds before another try


def chain(
    project: Project, tracker: Tracker, names: list[str], console: Callable[[str], Console] = Console
) -> list[dvc_runner.StageResult]:
    """Run stages of the tracker's subject, inside a flow (`prefect_runtime.as_flow`); console: one for each stage's name."""

    finished = dvc_runner.finished(project, tracker.subject, names)

    def bring_up_to_date(stage: str) -> dvc_runner.StageResult:
        shown = console(stage)
        if stage in finished:
            tracker.follow(stage, cached=True)
            done = dvc_runner.StageResult(stage, True, 0.0, None)
        else:
            # The last one looks at all: what was edited while the others ran runs again.
            done = dvc_runner.run(project, stage, tracker, shown, alone=stage != names[-1])
        shown.done(_told(done), done.cached)
        return done

    return [_as_task(bring_up_to_date, stage) for stage in names]


def _as_task(work: Callable[[str], dvc_runner.StageResult], stage: str) -> dvc_runner.StageResult:
    if prefect_runtime.is_offline():
        return work(stage)
    from prefect import task

    return task(
        work,
        name=stage,
        # Killed (it goes on from its checkpoint), or its files were busy; what was noted would fail again.
        retries=1,
        retry_delay_seconds=PAUSE,
        retry_condition_fn=_worth_another_try,
        persist_result=False,
    )(stage)


def _worth_another_try(task, run, state) -> bool:
    try:
        state.result()
    except (dvc_runner.DvcLocked, dvc_runner.StageKilled):
        return not dvc_runner.stopping.is_set()
    except BaseException:
        return False
    return False


def _told(done: dvc_runner.StageResult) -> str:
    if done.cached:
        return "up to date"
    return f"{done.seconds:.0f} s" + (f", {done.peak_memory_mb:.0f} MB" if done.peak_memory_mb else "")
