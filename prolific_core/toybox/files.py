"""Array files that are written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prolific_core.files import atomically


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array in NumPy's format without pickling.

    Args:
        path: File to write.
        array: Array of any shape whose values are not objects.
    """
    with atomically(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
