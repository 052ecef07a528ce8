"""Stages in order, each a Prefect task that asks DVC to bring it up to date.

Prefect is imported late, inside: its surroundings (flows/prefect_home.py) come first.
"""

from collections.abc import Callable

from flows import prefect_home, stages
from tasks.console import Console
from tasks.project import Project
from tasks.tracker import Tracker

PAUSE = 2.0  # seconds before another try


def chain(project: Project, tracker: Tracker, names: list[str], console: Callable[[str], Console] = Console) -> list[stages.Done]:
    """Run stages of the tracker's subject, inside a flow (`prefect_home.as_flow`); console: one for each stage's name."""

    finished = stages.finished(project, tracker.subject, names)

    def bring_up_to_date(stage: str) -> stages.Done:
        shown = console(stage)
        if stage in finished:
            tracker.follow(stage, cached=True)
            done = stages.Done(stage, True, 0.0, None)
        else:
            # The last one looks at all: what was edited while the others ran runs again.
            done = stages.run(project, stage, tracker, shown, alone=stage != names[-1])
        shown.done(_told(done), done.cached)
        return done

    return [_as_task(bring_up_to_date, stage) for stage in names]


def _as_task(work: Callable[[str], stages.Done], stage: str) -> stages.Done:
    if prefect_home.away():
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
    except (stages.Busy, stages.Crashed):
        return not stages.stopping.is_set()
    except BaseException:
        return False
    return False


def _told(done: stages.Done) -> str:
    if done.cached:
        return "up to date"
    return f"{done.seconds:.0f} s" + (f", {done.peak_memory_mb:.0f} MB" if done.peak_memory_mb else "")
