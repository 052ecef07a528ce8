"""The flow of one prompt, from text to report."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from flows import prefect_home, report, stages
from flows.chain import chain
from prolific_core.prior.location import locate
from tasks import pipeline
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
        done = chain("generate", project, tracker, list(STAGES))
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
