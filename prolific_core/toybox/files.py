"""Atomic writing of array files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prolific_core.files import atomically


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array to a .npy file atomically and without pickling.

    Args:
        path: File to write.
        array: Array of any shape and of any dtype except object.
    """
    with atomically(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
