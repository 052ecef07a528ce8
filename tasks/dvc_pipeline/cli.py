"""DVC, started by us: the right python first in PATH, nothing reported, and no life after ours.

python -m tasks.dvc_pipeline.cli repro prompts/a-red-mug/dvc.yaml:nerf
"""

import os
import re
import sys
from pathlib import Path

from tasks.runtime import machine


def environment() -> dict[str, str]:
    """The environment in which `python` is this one and libraries are quiet."""
    machine.disable_telemetry()
    # Not resolved: in a virtual environment the link's folder is the one that counts.
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]), "PYTHONUNBUFFERED": "1"}


def read_only(pipeline: str) -> None:
    """Have DVC read one pipeline file, by its path from the root, where it would read all of the project's.

    Prompts do not depend on each other, and each that is on file would cost every stage of every other
    .04 seconds of the processor: a sweep of a hundred spent more on that than on its stages.
    """
    from dvc.repo.index import Index

    Index.from_repo = classmethod(
        lambda cls, repo, onerror=None: cls.from_file(repo, repo.fs.join(repo.root_dir, pipeline))
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

    lock.DEFAULT_TIMEOUT = (
        0.3  # a sixth of it is between two looks at a lock that another prompt's stage holds: half a second
    )
    # The flag before the command: several prompts at once wait for one another's locks.
    return dvc(["--wait-for-lock", *sys.argv[1:]])


if __name__ == "__main__":
    machine.exit_now(main())
