"""Small file helpers: atomic writes, JSON lines, resumable optimizer state."""

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


def log_line(path: Path, **values) -> None:
    """Append one JSON line (a curve's point) and print it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()})
    with open(path, "a") as handle:
        handle.write(line + "\n")
    print(line, flush=True)


def save_checkpoint(path: Path, state: dict) -> None:
    """torch.save of tensors and plain values, atomically."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(Path(path), buffer.getvalue())


def load_checkpoint(path: Path) -> dict | None:
    """The checkpoint, or None where there is none. Never unpickles objects."""
    import torch

    return torch.load(path, weights_only=True) if Path(path).exists() else None


def save_grid(path: Path, images: np.ndarray, columns: int, zoom: int = 2) -> None:
    """A PNG contact sheet of (N, 3, H, W) float images in [0, 1]."""
    import io

    from PIL import Image

    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * h, columns * w, 3), np.float32)
    for k, image in enumerate(images):
        r, c = divmod(k, columns)
        sheet[r * h : (r + 1) * h, c * w : (c + 1) * w] = image.transpose(1, 2, 0)
    picture = Image.fromarray((sheet.clip(0, 1) * 255 + 0.5).astype(np.uint8)).resize((columns * w * zoom, rows * h * zoom), 0)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomically(Path(path), buffer.getvalue())
