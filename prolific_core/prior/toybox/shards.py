"""Rendered shards on disk: images .npy (N, S, S, 3) uint8 and labels .json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .files import save_array, write_json
from .params import DATA, ROOT


def render_shard(root: Path, number: int, seed: int = DATA.seed, count: int = DATA.shard, mix: dict | None = None,
                 split: str = "train", name: str = "train") -> None:
    """Render shard `number` unless it is there already (labels are written last)."""
    from . import world

    stem = Path(root) / "shards" / f"{name}-{number:04d}"
    if stem.with_suffix(".json").exists():
        return
    examples = [world.draw(seed, number * count + k, mix or DATA.mix, DATA.size, split=split) for k in range(count)]
    save_array(stem.with_suffix(".npy"), np.stack([e.image for e in examples]))
    write_json(stem.with_suffix(".json"), [e.label() for e in examples])


def shard_numbers(root: Path, name: str = "train") -> list[int]:
    """Finished shards, in order."""
    return sorted(int(p.stem.rsplit("-", 1)[1]) for p in (Path(root) / "shards").glob(f"{name}-*.json"))


def load_images(root: Path, number: int, name: str = "train") -> np.ndarray:
    """Memory-mapped (N, S, S, 3) uint8."""
    return np.load(Path(root) / "shards" / f"{name}-{number:04d}.npy", mmap_mode="r", allow_pickle=False)


def load_labels(root: Path, number: int, name: str = "train") -> list[dict]:
    return json.loads((Path(root) / "shards" / f"{name}-{number:04d}.json").read_text())


def to_unit(images: np.ndarray):
    """uint8 (N, H, W, 3) -> float32 torch (N, 3, H, W) in [-1, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)


class Shards:
    """The training shards, with those of the pairs that the prior never sees ("heldout"): for the judge and the scorer."""

    def __init__(self, root: Path):
        which = [(name, n) for name in ("train", "heldout") for n in shard_numbers(root, name)]
        self.images = [load_images(root, n, name) for name, n in which]
        self.labels = [load_labels(root, n, name) for name, n in which]

    def pick(self, g: np.random.Generator, size: int) -> tuple[int, np.ndarray]:
        """A shard and `size` rows of it."""
        k = int(g.integers(len(self.images)))
        return k, np.sort(g.choice(len(self.images[k]), size, replace=False))


def heldout_images(count: int = 256, kinds=("colour", "normals")) -> tuple[np.ndarray, list[dict]]:
    """Renders from a seed that training never uses, half of them held-out pairs."""
    from . import world

    half = count // 2
    out = [world.draw(DATA.heldout_seed, k, {k2: DATA.mix[k2] for k2 in kinds}, DATA.size,
                      split="train" if k < half else "heldout") for k in range(count)]
    return np.stack([e.image for e in out]), [e.label() for e in out]
