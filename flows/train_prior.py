"""Flow that trains a prior of the Toybox world, from nothing or from another prior to a model folder."""

import time
from pathlib import Path

from prefect import flow

from flows.generate import run_stages
from tasks.prior_training import pipeline
from tasks.prior_training.runs import PriorRuns
from tasks.prior_training.specs import STAGES
from tasks.runtime.project import Project
from tasks.tracking.tracker import Tracker


@flow(flow_run_name="{name}", persist_result=False)
def train_prior(name: str = "toybox") -> Path:
    """Bring priors/<name>/ up to date and return its model folder.

    A useful prior takes hours. A training that was stopped resumes from its last checkpoint.
    """
    began = time.monotonic()
    project = Project.find()
    pipeline.refresh(project, name)
    runs = PriorRuns(project, name)
    with Tracker(project, runs) as tracker:
        run_stages(tracker, list(STAGES))
        tracker.finish({"seconds": round(time.monotonic() - began, 1)}, [])
    return runs.output("model")
