"""Git revision of the code that produced a result."""

import subprocess
from pathlib import Path


def revision(folder: Path) -> str | None:
    """Return the current commit of the repository that contains a folder, or None if no commit is found.

    If files differ from the commit, `-dirty` is appended. Changes to dvc.lock are ignored, because every run writes it,
    and its hash is a separate tag in MLflow.
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
