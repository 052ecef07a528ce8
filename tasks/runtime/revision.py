"""Revision of the project's code that a result was made with."""

import subprocess
from pathlib import Path


def revision(folder: Path) -> str | None:
    """Return the commit of the git repository around a folder, with `-dirty` when files differ from it, or None.

    A changed dvc.lock does not count, since every run writes one; MLflow's runs have a tag for it.
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
