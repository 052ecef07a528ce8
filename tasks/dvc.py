"""DVC, started by us: the right python first in PATH, nothing reported, and no life after ours.

    python -m tasks.dvc repro prompts/a-red-mug/dvc.yaml:nerf
"""

import os
import sys
from pathlib import Path

from tasks import machine


def environment() -> dict[str, str]:
    """The environment in which `python` is this one and libraries are quiet."""
    machine.quiet()
    # Not resolved: in a virtual environment the link's folder is the one that counts.
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]), "PYTHONUNBUFFERED": "1"}


def main() -> int:
    machine.die_with_parent()
    os.environ.update(environment())
    from dvc.cli import main as dvc

    # The flag before the command: several prompts at once wait for one another's locks.
    return dvc(["--wait-for-lock", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
