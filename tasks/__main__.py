"""Command-line entry point for the stages of a prompt, called by the generated DVC pipelines.

    python -m tasks nerf a-red-mug

This command runs one stage and sends its records to MLflow, unless a flow already sends them.
"""

import os
import sys

from prolific_core.prompts import check_id
from tasks.runtime import machine, stage
from tasks.runtime.failures import reported
from tasks.runtime.job import note_failure
from tasks.runtime.project import STAGES, Project


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
        stage.run(project, name, id)
        if os.environ.get("PROLIFIC_TRACKER") != "flow":  # A flow sends the records itself.
            from tasks.tracking import tracker

            tracker.sync(project, id, [name])

    return reported(work, note=lambda line, status: note_failure(Project.find().stage_state(id, name), line, status))


if __name__ == "__main__":
    machine.exit_now(main(sys.argv[1:]))
