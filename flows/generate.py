"""The flow of one prompt: six stages in order, each a Prefect task that asks DVC to bring it up to date.

Prefect is imported late, inside: its surroundings (flows/prefect_home.py) come first.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from flows import prefect_home, report, stages
from prolific_core.prior.location import locate
from tasks import pipeline
from tasks.console import Console
from tasks.project import STAGES, Project
from tasks.tracker import Tracker


@dataclass(frozen=True)
class Result:
    """What came of one prompt."""

    id: str
    seconds: float
    peak_memory_mb: float | None
    stages: list[stages.Done]
    glb: Path
    turntable: Path
    report: Path
    metrics: dict
    page: str | None  # of the run in MLflow's UI

    def json(self) -> str:
        values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "page"}
        values["stages"] = {done.pop("stage"): done for done in values["stages"]}
        return json.dumps(values)


def generate(project: Project, id: str) -> Result:
    """Run a prompt that is on file, from text to report."""
    began = time.monotonic()
    os.chdir(project.root)  # where paths in the parameters start, wherever the command was given
    # A mistake in a file, or a prior that is not there, is told before anything starts.
    locate(project.config(project.prompt(id)).prior.path)
    pipeline.refresh(project, id)
    prefect_home.set_up(project)
    with Tracker(project, id) as tracker:
        done = _flow(project, tracker)(id)
        page = report.write(project, id)
        paths = final_files(project, id)
        metrics = json.loads((project.output(id, "evaluate") / "measures.json").read_text())
        seconds = round(time.monotonic() - began, 1)
        tracker.summarise(**metrics)
        tracker.files([*paths, page])
        address = tracker.address()
    peaks = [stage.peak_memory_mb for stage in done if stage.peak_memory_mb]
    return Result(id, seconds, max(peaks, default=None), done, *paths, page, metrics, address)


def final_files(project: Project, id: str) -> tuple[Path, Path]:
    """The model and its turntable."""
    return project.output(id, "export") / "mesh.glb", project.output(id, "evaluate") / "turntable.mp4"


def _flow(project: Project, tracker: Tracker):
    """The Prefect flow, with one task per stage, named after it."""
    from prefect import flow, task

    def make(stage: str):
        def bring_up_to_date(prompt_id: str) -> stages.Done:
            done = stages.run(project, prompt_id, stage, tracker, Console(stage))
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

    tasks = [make(stage) for stage in STAGES]

    @flow(name="generate", flow_run_name="{prompt_id}", persist_result=False)
    def generate(prompt_id: str) -> list[stages.Done]:
        return [task(prompt_id) for task in tasks]

    return generate


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
