"""How the last run of each prompt went, kept in .state/<id>/outcome.json: what is left to do after a failure or a kill."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.prompt_store import sets
from prolific_core.errors import ProlificError
from prolific_core.files import write_atomically
from tasks.runtime.project import STAGES, Project


@dataclass(frozen=True)
class Outcome:
    """state: waiting, running, done or failed; a killed run stays what it was."""

    state: str
    message: str = ""  # one line, of a failure
    log: str = ""  # its log's path from the root
    seconds: float = 0.0


def read(project: Project, id: str) -> Outcome | None:
    """None when nothing is known."""
    try:
        return Outcome(**json.loads(_path(project, id).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(project: Project, id: str, outcome: Outcome) -> None:
    write_atomically(_path(project, id), json.dumps(asdict(outcome)).encode())


def unfinished(project: Project, id: str) -> bool:
    """Whether its last run did not come to a good end: failed, killed, or waiting in a sweep that was; or it never ran."""
    found = read(project, id)
    return found.state != "done" if found else sets.made(project, id) < len(STAGES)


@contextmanager
def prompt_lock(project: Project, id: str, say: Callable[[str], None] | None) -> Iterator[None]:
    """Hold a prompt, so that two runs at once never write one output; a kill lets go.

    Says so and waits when another run holds it; without `say` that is a ProlificError.
    """
    path = project.state / id / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say is None:
                raise ProlificError(f"'{id}' is being made; wait for that run, or stop it first") from None
            say(f"another run of '{id}' is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _path(project: Project, id: str) -> Path:
    return project.state / id / "outcome.json"
