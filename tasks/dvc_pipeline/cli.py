"""DVC's command line with this Python first in PATH, without telemetry, and ended with its parent process.

python -m tasks.dvc_pipeline.cli repro prompts/a-red-mug/dvc.yaml:nerf
"""

import os
import re
import sys
from pathlib import Path

from tasks.runtime import machine


def environment() -> dict[str, str]:
    """Return an environment in which `python` is this interpreter and libraries send no usage reports."""
    machine.disable_telemetry()
    # The path is not resolved: in a virtual environment the folder of the link is the one to use.
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]), "PYTHONUNBUFFERED": "1"}


def read_only(pipeline: str) -> None:
    """Make DVC read only one pipeline file, given relative to the root, instead of all files of the project.

    Prompts do not depend on each other, and reading the file of each prompt takes 0.04 seconds per stage that runs.
    """
    from dvc.repo.index import Index

    Index.from_repo = classmethod(  # pyright: ignore[reportAttributeAccessIssue]
        lambda cls, repo, onerror=None: Index.from_file(repo, repo.fs.join(repo.root_dir, pipeline))
    )


def _one_prompt(targets: list[str]) -> str | None:
    found = re.fullmatch(r"(prompts/[^/]+/dvc\.yaml)(:\w+)?", targets[0]) if len(targets) == 1 else None
    return found and found[1]


def main() -> int:
    machine.die_with_parent()
    os.environ.update(environment())
    command, targets = sys.argv[1:2], [part for part in sys.argv[2:] if not part.startswith("-")]
    if command in (["repro"], ["status"]) and (pipeline := _one_prompt(targets)):
        read_only(pipeline)
    from dvc import lock
    from dvc.cli import main as dvc

    # DVC polls a lock that the stage of another prompt holds at a sixth of this interval, by default every half second.
    lock.DEFAULT_TIMEOUT = 0.3
    # The flag, which comes before the command, makes concurrent prompts wait for each other's locks.
    return dvc(["--wait-for-lock", *sys.argv[1:]])


if __name__ == "__main__":
    machine.exit_now(main())
