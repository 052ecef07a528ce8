"""Paths of a given length."""

import os
from pathlib import Path


def path_of(folder: Path, length: int) -> Path:
    """Return a path below `folder` of so many bytes."""
    while (left := length - len(os.fsencode(folder)) - 1) > 200:
        folder = folder / ("a long name " * 10)
    return folder / ("x" * left)
