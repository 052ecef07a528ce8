"""Rendered shards on disk: images .npy (N, S, S, 3) uint8 and labels .json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from prolific_core.toybox.files import save_array, write_json
from prolific_core.toybox.params import HELD_OUT_SEED, SIZE, Data

SPLITS = ("train", "heldout")


def render(folder: Path, data: Data, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Render every shard of both splits that is not in the folder yet; progress(images done, of)."""
    counts = {"train": data.images, "heldout": data.heldout}
    total, done = sum(counts.values()), 0
    for split in SPLITS:
        for start in range(0, counts[split], data.shard):
            size = min(data.shard, counts[split] - start)
            render_shard(folder, data, split, start, size)
            done += size
            progress(done, total)


def render_shard(folder: Path, data: Data, split: str, start: int, count: int) -> None:
    """Pictures start to start + count of a split, as one shard; labels are written last."""
    from prolific_core.toybox.world import draw as world

    stem = folder / f"{split}-{start // data.shard:04d}"
    if stem.with_suffix(".json").exists():
        return
    seed = data.seed + SPLITS.index(split)
    examples = [world.draw(seed, start + k, data, split=split) for k in range(count)]
    save_array(stem.with_suffix(".npy"), np.stack([e.image for e in examples]))
    write_json(stem.with_suffix(".json"), [e.label() for e in examples])


class Shards:
    """Finished shards of one or both splits, memory-mapped.

    images: arrays (N, S, S, 3) uint8; labels: lists of dicts; names: file stems.
    """

    def __init__(self, folder: Path, splits: tuple[str, ...] = SPLITS):
        stems = [p.with_suffix("") for split in splits for p in sorted(folder.glob(f"{split}-*.json"))]
        self.names = [stem.name for stem in stems]
        self.images = [np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for stem in stems]
        self.labels = [json.loads(stem.with_suffix(".json").read_text()) for stem in stems]

    def pick(self, g: np.random.Generator, size: int) -> tuple[int, np.ndarray]:
        """A shard (as likely as it is large) and `size` rows of it."""
        sizes = np.array([len(images) for images in self.images])
        k = int(g.choice(len(sizes), p=sizes / sizes.sum()))
        return k, np.sort(g.choice(sizes[k], min(size, sizes[k]), replace=False))


def to_unit(images: np.ndarray):
    """uint8 (N, H, W, 3) -> float32 torch (N, 3, H, W) in [-1, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)


def heldout_images(count: int = 256, kinds=("colour", "normals")) -> tuple[np.ndarray, list[dict]]:
    """Renders from a seed that training never uses, half of them held-out pairs."""
    from prolific_core.toybox.world import draw as world

    data = Data(mix={kind: share if kind in kinds else 0.0 for kind, share in Data().mix})
    half = count // 2
    out = [world.draw(HELD_OUT_SEED, k, data, SIZE, split="train" if k < half else "heldout") for k in range(count)]
    return np.stack([e.image for e in out]), [e.label() for e in out]
