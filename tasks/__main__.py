"""Command-line entry point for the stages of a prompt, called by the generated DVC pipelines.

    python -m tasks nerf a-red-mug

This command runs one stage and sends its records to MLflow, unless a flow already sends them.
"""

import os
import sys

from prolific_core.prompts import check_id
from tasks.dvc_pipeline import pipeline
from tasks.runtime import machine, stage
from tasks.runtime.failures import reported
from tasks.runtime.job import note_failure
from tasks.runtime.project import STAGES, Project


def _update_pipeline(project: Project, id: str) -> None:
    """Update a prompt's dvc.yaml if its parameters have changed since it was generated.

    Its dependencies follow the parameters. DVC, which may have changed a parameter itself (`dvc exp run --set-param`),
    has already read the file, and compares the stage with the new one when it is run again.
    """
    if pipeline.refresh(project, project.prompt(id)):
        print(
            f"prompts/{id}/dvc.yaml has been updated, because changed parameters use other files or parameters; "
            "the next `dvc repro` may run a stage once more",
            file=sys.stderr,
        )


def main(arguments: list[str]) -> int:
    """Run the stage `arguments[0]` of the prompt with id `arguments[1]` and return the exit status."""
    if len(arguments) != 2:
        print(f"usage: python -m tasks STAGE ID, where STAGE is one of: {', '.join(STAGES)}", file=sys.stderr)
        return 2
    name, id = arguments
    machine.disable_telemetry()
    if "DVC_STAGE" in os.environ:
        machine.die_with_parent()

    def work() -> None:
        project = Project.find()
        if name in STAGES:
            (project.stage_state(check_id(id), name) / "failure.json").unlink(missing_ok=True)
        if "DVC_STAGE" in os.environ and name in STAGES:
            _update_pipeline(project, id)
        stage.run(project, name, id)
        if os.environ.get("PROLIFIC_TRACKER") != "flow":  # A flow sends the records itself.
            from tasks.tracking import tracker

            tracker.sync(project, id, [name])

    return reported(work, note=lambda line, status: note_failure(Project.find().stage_state(id, name), line, status))


if __name__ == "__main__":
    machine.exit_now(main(sys.argv[1:]))
