"""`prolific prior train`: a prior of the Toybox's world, from nothing (or from another) to a model folder."""

import time
from pathlib import Path

from flows.chain import chain
from flows.orchestration import prefect_runtime
from prolific_core.files import write_atomically
from tasks.prior_training import stages as prior
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker


def train(project: Project, name: str) -> Path:
    """Bring priors/<name>/ up to date; its model folder. Hours for a prior worth having; resumes."""
    runs = prior.PriorRuns(project, name)
    runs.config  # noqa: B018 (a mistake in params.yaml is told before anything starts)
    write_pipeline(project, name)
    prefect_runtime.set_up(project)
    began = time.monotonic()
    with Tracker(project, runs) as tracker:
        prefect_runtime.as_flow("train", name, lambda: chain(project, tracker, list(prior.STAGES)))
        tracker.finish({"seconds": round(time.monotonic() - began, 1)}, [])
    return runs.output("model")


def write_pipeline(project: Project, name: str) -> None:
    """priors/<name>/dvc.yaml as STAGES has it today, and no section missing in params.yaml: DVC calls that an error."""
    folder = project.root / "priors" / name
    path, text = folder / "dvc.yaml", prior.pipeline(name).encode()
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text)
    numbers = folder / "params.yaml"
    missing = prior.PriorRuns(project, name).missing_sections()
    if missing:  # appended, so that comments stay
        write_atomically(
            numbers, numbers.read_bytes() + "".join(f"\n{section}: {{}}\n" for section in missing).encode()
        )
