"""Which state of the project something was made with."""

import subprocess
from pathlib import Path


def revision(folder: Path) -> str | None:
    """The commit of the repository that a folder is in, `-dirty` where files of it differ; None where git knows none.

    A changed dvc.lock does not count: every run writes one, and it has a tag of its own.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10
        )

    try:
        head = git("rev-parse", "--verify", "--quiet", "--short=12", "HEAD")
        if head.returncode != 0:
            return None
        changed = git("diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude,glob)**/dvc.lock").returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("-dirty" if changed else "")
