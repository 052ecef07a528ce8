"""Stages in order as one Prefect flow: each a task that asks DVC to bring it up to date.

Prefect is imported late, inside: its surroundings (flows/prefect_home.py) come first.
"""

import sys

from flows import stages
from tasks.console import Console
from tasks.project import Project
from tasks.tracker import Tracker


def chain(name: str, project: Project, tracker: Tracker, names: list[str]) -> list[stages.Done]:
    """Run the stages of the tracker's subject as a flow called `name`."""
    from prefect import flow, task

    def make(stage: str):
        def bring_up_to_date(subject: str) -> stages.Done:
            done = stages.run(project, stage, tracker, Console(stage))
            _say(done)
            return done

        return task(
            bring_up_to_date,
            name=stage,
            retries=1,
            retry_delay_seconds=5,
            retry_condition_fn=_worth_another_try,
            # DVC is the only cache: a second one, local to a machine, would contradict it.
            persist_result=False,
        )

    tasks = [make(stage) for stage in names]

    @flow(name=name, flow_run_name="{subject}", persist_result=False)
    def run(subject: str) -> list[stages.Done]:
        return [task(subject) for task in tasks]

    return run(tracker.subject.name)


def _worth_another_try(task, run, state) -> bool:
    try:
        state.result()
    except stages.Busy:
        return True
    except BaseException:
        return False
    return False


def _say(done: stages.Done) -> None:
    how = "up to date" if done.cached else f"{done.seconds:.0f} s"
    memory = f", {done.peak_memory_mb:.0f} MB" if done.peak_memory_mb else ""
    print(f"{done.stage:<11} {how}{memory}", file=sys.stderr, flush=True)
