"""Git, through which a head and its workers exchange revisions and results.

Both use references of their own, as DVC's experiments do: a plain `git fetch` or `git clone` does not see them, so
thousands of prompts leave the list of branches as it is.

    refs/prolific/revisions/<first 12 digits>    what a sweep sent to the workers
    refs/prolific/prompts/<id>                   the newest state of one prompt's pipeline, handed back by a worker
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from prolific_core.errors import InputError, ProlificError, mask

T = TypeVar("T")

REMOTE = "origin"
WAITS = (1, 2, 5, 10, 20, 40, 60)  # seconds between tries of a transfer, so that a network may drop for a minute


class GitFailed(ProlificError):
    """Error raised when a git command fails."""


class Rejected(GitFailed):
    """Error raised when a push is refused because the reference has changed."""


def revision_ref(revision: str) -> str:
    return f"refs/prolific/revisions/{revision[:12]}"


def prompt_ref(id: str) -> str:
    return f"refs/prolific/prompts/{id}"


def git(root: Path, *arguments: str, **environment: str) -> str:
    """Run a git command in a folder and return its output without the last line break.

    Raises GitFailed with the last line of its errors.
    """
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # a signal to this process's group must not interrupt a transfer
    )
    if done.returncode == 0:
        return done.stdout.rstrip("\n")
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("hint:")]
    message = mask(f"`git {arguments[0]}` failed: {' '.join(lines[-2:]) or done.returncode}")
    raise (Rejected if "[rejected]" in done.stderr or "stale info" in done.stderr else GitFailed)(message)


def transfer(root: Path, *arguments: str) -> str:
    """Run a git command that uses the network, and repeat it for about two minutes if it fails."""
    return patiently(lambda: git(root, *arguments), (GitFailed,), (Rejected,))


def patiently(work: Callable[[], T], errors: tuple[type[Exception], ...], final: tuple[type[Exception], ...] = ()) -> T:
    """Call a function that uses the network, and repeat it while it raises `errors` other than `final`."""
    for wait in WAITS:
        try:
            return work()
        except final:
            raise
        except errors:
            time.sleep(wait)
    return work()


def listed(root: Path, pattern: str) -> dict[str, str]:
    """Return the references of the remote that match a pattern, with their commits."""
    lines = transfer(root, "ls-remote", REMOTE, pattern).splitlines()
    return {name: commit for commit, _, name in (line.partition("\t") for line in lines)}


def file_of(root: Path, commit: str, path: str) -> bytes | None:
    """Return the content of a file in a commit, or None if the commit does not have it."""
    done = subprocess.run(["git", "-C", str(root), "cat-file", "blob", f"{commit}:{path}"], capture_output=True)
    return done.stdout if done.returncode == 0 else None


def url(root: Path) -> str:
    """Return the address of the remote that workers clone.

    Raises an InputError if there is none, or if the address contains a password, which would end in Prefect's database.
    """
    try:
        found = git(root, "remote", "get-url", REMOTE)
    except GitFailed:
        raise InputError(
            f"workers with clones of their own need a git remote named '{REMOTE}' that this clone can push to; "
            f"add it: git remote add {REMOTE} ADDRESS"
        ) from None
    if (
        mask(found) != found
        and "@" in found.partition("://")[2].partition("/")[0]
        and ":" in found.partition("://")[2].partition("@")[0]
    ):
        raise InputError(
            f"the address of the git remote '{REMOTE}' contains a password; remove it, and give git the password by a "
            "credential helper or use SSH"
        )
    return found
