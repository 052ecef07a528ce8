"""Flow that trains a prior of the Toybox world, from nothing or from another prior to a model folder."""

import time
from pathlib import Path

from flows.chain import chain
from flows.orchestration import prefect_runtime
from prolific_core.files import write_atomically
from tasks.prior_training.pipeline import pipeline
from tasks.prior_training.runs import PriorRuns
from tasks.prior_training.specs import STAGES
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker


def train(project: Project, name: str) -> Path:
    """Bring priors/<name>/ up to date and return its model folder.

    A useful prior takes hours. A training that was stopped resumes from its last checkpoint.
    """
    runs = PriorRuns(project, name)
    runs.config  # noqa: B018 (reports a mistake in params.yaml before anything starts)
    write_pipeline(project, name)
    prefect_runtime.set_up(project)
    began = time.monotonic()
    with Tracker(project, runs) as tracker:
        prefect_runtime.as_flow("train", name, lambda: chain(project, tracker, list(STAGES)))
        tracker.finish({"seconds": round(time.monotonic() - began, 1)}, [])
    return runs.output("model")


def write_pipeline(project: Project, name: str) -> None:
    """Write priors/<name>/dvc.yaml from STAGES, and add the sections that params.yaml lacks, as DVC requires them."""
    folder = project.root / "priors" / name
    path, text = folder / "dvc.yaml", pipeline(name).encode()
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text)
    missing = PriorRuns(project, name).missing_sections()
    if missing:  # Appended, so that the user's comments stay.
        params = folder / "params.yaml"
        added = "".join(f"\n{section}: {{}}\n" for section in missing)
        write_atomically(params, params.read_bytes() + added.encode())
