"""Flow that trains a prior of the Toybox world, from scratch or from another prior."""

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
    """Train the prior that priors/<name>/params.yaml describes, and return its model folder.

    Training a useful prior takes hours. An interrupted training resumes from its last checkpoint.
    """
    project = Project.find()
    pipeline.refresh(project, name)
    runs = PriorRuns(project, name)
    with Tracker(project, runs) as tracker:
        run_stages(tracker, list(STAGES))
        tracker.finish({}, [])
    return runs.output("model")
