"""JSON and arrays, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from prolific_core.files import write_atomically


def write_json(path: Path, value) -> None:
    write_atomically(Path(path), (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def save_array(path: Path, array: np.ndarray) -> None:
    """Atomic numpy.save, without pickling."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(path.name + ".tmp")
    with open(tmp, "wb") as handle:
        np.save(handle, array, allow_pickle=False)
    os.replace(tmp, path)
