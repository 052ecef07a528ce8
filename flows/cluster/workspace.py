"""Clone in which a worker makes one prompt after the other, each at a fixed revision.

    python -m flows.cluster.workspace

This is the first step of Prefect's deployment for workers without a shared disk: it prints the clone's path, where the
flow then runs. It reads PROLIFIC_WORKSPACE (the path), PROLIFIC_REPOSITORY (the address to clone) and PROLIFIC_REVISION
from the environment.
"""

import os
import shutil
import sys
from pathlib import Path

from flows.cluster.git import REMOTE, git, revision_ref, transfer
from prolific_core.errors import InputError, ProlificError
from tasks.runtime.failures import reported

PATH, REPOSITORY, REVISION = "PROLIFIC_WORKSPACE", "PROLIFIC_REPOSITORY", "PROLIFIC_REVISION"


def prepare(folder: Path, address: str, revision: str) -> None:
    """Check out a revision in a clone, which is made if it does not exist.

    Only this commit is fetched, without its history.
    """
    if not (folder / ".git").is_dir():
        shutil.rmtree(folder, ignore_errors=True)  # of a clone that was interrupted
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        git(partial, "init", "--quiet")
        git(partial, "remote", "add", REMOTE, address)
        partial.rename(folder)
    git(folder, "remote", "set-url", REMOTE, address)
    (folder / ".git" / "index.lock").unlink(missing_ok=True)  # of a process that was killed; nobody else works here
    transfer(folder, "fetch", "--quiet", "--depth=1", REMOTE, f"+{revision_ref(revision)}:{revision_ref(revision)}")
    git(folder, "checkout", "--quiet", "--force", "--detach", revision)
    git(folder, "clean", "--quiet", "--force", "-d", "--", ".")


def keep_only(root: Path, id: str) -> None:
    """Delete what other prompts have left in a clone: their outputs, their state and DVC's cache.

    Everything has been pushed. A worker's disk therefore holds one prompt at a time.
    """
    others = [path for path in (root / "runs").glob("*") if path.name != id]
    if others:
        shutil.rmtree(root / ".dvc" / "cache" / "files", ignore_errors=True)
    states = [path.parent for path in root.glob(".state/*/status.json") if path.parent.name != id]
    for path in (*others, *states, root / "reports"):
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    missing = [name for name in (PATH, REPOSITORY, REVISION) if not os.environ.get(name)]
    if missing:
        raise InputError(f"{', '.join(missing)} must be set; `prolific worker` and `prolific sweep --pool` set them")
    folder = Path(os.environ[PATH])
    try:
        prepare(folder, os.environ[REPOSITORY], os.environ[REVISION])
    except OSError as error:
        raise ProlificError(f"cannot prepare {folder}: {error}") from None
    print(folder)


if __name__ == "__main__":
    sys.exit(reported(main))
