"""Status of the last run of each prompt, stored in .state/<id>/status.json and used by `sweep --only-failed`."""

from dataclasses import asdict, dataclass
from pathlib import Path

from prolific_core.files import read_json, write_json
from tasks.runtime.project import STAGES, Project


@dataclass(frozen=True)
class RunStatus:
    """Status of a run, with the state "waiting", "running", "done" or "failed".

    If a run is killed, its last state remains.
    """

    state: str
    message: str = ""  # one line that describes a failure
    log: str = ""  # path of the failed stage's log, relative to the project root
    seconds: float | None = 0.0  # of the model's stages, or until the failure


def read(project: Project, id: str) -> RunStatus | None:
    """Return the status of a prompt's last run, or None if no readable status exists."""
    try:
        return RunStatus(**read_json(_path(project, id)))
    except TypeError:
        return None


def write(project: Project, id: str, status: RunStatus) -> None:
    """Record the status of a prompt's run."""
    write_json(_path(project, id), asdict(status))


def is_unfinished(project: Project, id: str) -> bool:
    """Return whether a prompt's last run did not succeed.

    If no run is recorded, return whether any of the prompt's stages is unfinished.
    """
    status = read(project, id)
    return status.state != "done" if status else project.finished_stages(id) < len(STAGES)


def _path(project: Project, id: str) -> Path:
    return project.state / id / "status.json"
