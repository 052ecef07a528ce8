"""JSON and array files that are written completely or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prolific_core.files import atomically, write_atomically


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with sorted keys, so that equal values give equal bytes.

    Args:
        path: File to write.
        value: Dicts, lists, strings, numbers, booleans and None, nested.
    """
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array in NumPy's format without pickling.

    Args:
        path: File to write.
        array: Array of any shape whose values are not objects.
    """
    with atomically(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
