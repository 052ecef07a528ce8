"""Status of the last run of each prompt, stored in .state/<id>/status.json and used by `sweep --only-failed`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from prolific_core.files import write_json
from tasks.runtime.project import STAGES, Project


@dataclass(frozen=True)
class RunStatus:
    """Status of a run, with the state "waiting", "running", "done" or "failed".

    A killed run keeps the state that it had.
    """

    state: str
    message: str = ""  # one line that describes a failure
    log: str = ""  # path of the failed stage's log, relative to the project's root
    seconds: float = 0.0


def read(project: Project, id: str) -> RunStatus | None:
    """Return the status of a prompt's last run, or None if no readable status exists."""
    try:
        return RunStatus(**json.loads(_path(project, id).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(project: Project, id: str, status: RunStatus) -> None:
    """Record the status of a prompt's run."""
    write_json(_path(project, id), asdict(status))


def is_unfinished(project: Project, id: str) -> bool:
    """Return whether a prompt's last run did not succeed or, if no run is recorded, whether a stage has not finished."""
    status = read(project, id)
    return status.state != "done" if status else project.finished_stages(id) < len(STAGES)


def _path(project: Project, id: str) -> Path:
    return project.state / id / "status.json"
