"""File locks that the operating system releases when the process ends, even if it is killed.

Lock files are never deleted, because a process that waits for a deleted file would acquire a lock that others ignore.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from prolific_core.errors import ProlificError
from tasks.runtime.project import Project


def hold(path: Path, busy: str) -> AbstractContextManager:
    """Acquire a lock file. If the lock is already held, raise a ProlificError with the message `busy`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path).acquire(blocking=False)
    except Timeout:
        raise ProlificError(busy) from None


def prompt_lock(
    project: Project,
    id: str,
    waiting: Callable[[str], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> AbstractContextManager:
    """Acquire the lock of a prompt, so that two runs never write the same output.

    If another run holds the lock, `waiting` is called with a message, and the function waits for the lock until
    `stopping` returns true, when it raises a KeyboardInterrupt. If `waiting` is None, a ProlificError is raised instead
    of waiting.
    """
    path = project.state / id / "lock"
    try:
        return hold(path, f"a run of prompt '{id}' is in progress; wait for it, or stop it first")
    except ProlificError:
        if waiting is None:
            raise
    waiting(f"another run of '{id}' is in progress; waiting for it")
    while not stopping():
        try:
            return FileLock(path).acquire(timeout=0.5, poll_interval=0.1)
        except Timeout:
            continue
    raise KeyboardInterrupt
