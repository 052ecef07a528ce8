"""Command-line entry point for the stages that train a prior, called by the generated DVC pipelines.

    python -m tasks.prior_training diffusion toybox

A prior is a folder priors/<name>/ with its parameters (params.yaml) and its DVC pipeline (dvc.yaml). A killed stage
resumes from its last checkpoint, and its output is bitwise identical to that of an uninterrupted run.
"""

import os
import sys

from tasks.prior_training import stages
from tasks.prior_training.job import PriorStage
from tasks.prior_training.specs import STAGES
from tasks.runtime import machine
from tasks.runtime.console import Console
from tasks.runtime.failures import reported
from tasks.runtime.job import note_failure
from tasks.runtime.project import Project


def run(project: Project, name: str, prior: str) -> dict:
    """Run one stage of a prior in this process and return its metrics."""
    job = PriorStage(project, name, prior)
    job.key  # noqa: B018 (reports a missing input before torch is loaded)
    os.chdir(project.root)
    machine.threads(job.system.threads)
    job.device  # noqa: B018 (sets threads and determinism before the computation starts)
    body = getattr(stages, name)
    return job.run(body, Console(f"{prior} {name}"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2:
        print(
            f"usage: python -m tasks.prior_training STAGE NAME, where STAGE is one of: {', '.join(STAGES)}",
            file=sys.stderr,
        )
        return 2
    machine.disable_telemetry()
    if "DVC_STAGE" in os.environ:
        machine.die_with_parent()
    project, (name, prior) = Project.find(), arguments
    state = project.state / "priors" / prior / name

    def work() -> None:
        from tasks.prior_training.runs import PriorRuns
        from tasks.tracking import tracker

        runs = PriorRuns(project, prior)
        (state / "failure.json").unlink(missing_ok=True)
        run(project, name, prior)
        if os.environ.get("PROLIFIC_TRACKER") != "flow":  # A flow sends the records itself.
            tracker.sync(project, runs, [name])

    return reported(work, note=lambda line, status: note_failure(state, line, status))


if __name__ == "__main__":
    sys.exit(main())
