"""Rendering and loading of shards, which store images as .npy arrays and their labels as .json files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from prolific_core.files import write_json
from prolific_core.toybox.files import save_array
from prolific_core.toybox.params import HELD_OUT_SEED, SIZE, MixConfig, RenderConfig

SPLITS = ("train", "heldout")


def render(folder: Path, data: RenderConfig, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Render all shards that do not exist yet.

    Args:
        folder: Folder to write to.
        data: Parameters of the data set.
        progress: Callback that receives the number of finished images and their total.
    """
    counts = {"train": data.images, "heldout": data.heldout}
    total, done = sum(counts.values()), 0
    for split in SPLITS:
        for start in range(0, counts[split], data.shard):
            size = min(data.shard, counts[split] - start)
            render_shard(folder, data, split, start, size)
            done += size
            progress(done, total)


def render_shard(folder: Path, data: RenderConfig, split: str, start: int, count: int) -> None:
    """Render one shard unless it already exists.

    The labels are written last, so a shard is complete if its labels exist.

    Args:
        folder: Folder to write to.
        data: Parameters of the data set.
        split: One of `SPLITS`.
        start: Index of the first image.
        count: Number of images.
    """
    from prolific_core.toybox.world import draw as world

    stem = folder / f"{split}-{start // data.shard:04d}"
    if stem.with_suffix(".json").exists():
        return
    seed = data.seed + SPLITS.index(split)
    examples = [world.draw(seed, start + k, data, split=split) for k in range(count)]
    save_array(stem.with_suffix(".npy"), np.stack([e.image for e in examples]))
    write_json(stem.with_suffix(".json"), [e.label() for e in examples], indent=1)


class Shards:
    """Complete shards of one or both splits with memory-mapped images.

    Args:
        folder: Folder of the shards.
        splits: Splits to read.

    Attributes:
        names: Names of the shards, without a suffix.
        images: Images (N, S, S, 3), uint8, of each shard.
        labels: Labels of the images of each shard; see `Example.label`.
    """

    def __init__(self, folder: Path, splits: tuple[str, ...] = SPLITS):
        stems = [p.with_suffix("") for split in splits for p in sorted(folder.glob(f"{split}-*.json"))]
        self.names = [stem.name for stem in stems]
        self.images = [np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False) for stem in stems]
        self.labels = [json.loads(stem.with_suffix(".json").read_text()) for stem in stems]

    def pick(self, g: np.random.Generator, size: int) -> tuple[int, Int[np.ndarray, " rows"]]:
        """Sample a shard and some of its rows.

        The probability of a shard is proportional to its size. Rows are sampled without replacement.

        Args:
            g: Random number generator.
            size: Number of rows; if the shard has fewer rows, all are returned.

        Returns:
            The index of the shard and the sorted indices of the rows.
        """
        sizes = np.array([len(images) for images in self.images])
        k = int(g.choice(len(sizes), p=sizes / sizes.sum()))
        return k, np.sort(g.choice(sizes[k], min(size, sizes[k]), replace=False))


def to_unit(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Convert images to the input range of the autoencoder and the scorer.

    Args:
        images: Images in uint8, channels last.

    Returns:
        Images in [-1, 1], float32, channels first.
    """
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)


def to_float(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Convert images to the input range of the classifier and the metrics.

    Args:
        images: Images in uint8, channels last.

    Returns:
        Images in [0, 1], float32, channels first.
    """
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255


def heldout_images(
    count: int = 256, kinds: Sequence[str] = ("colour", "normals")
) -> tuple[UInt8[np.ndarray, "count height width 3"], list[dict]]:
    """Render images with a seed that training never uses.

    Half of the images show held-out pairs of family and colour.

    Args:
        count: Number of images.
        kinds: Kinds of images to sample.

    Returns:
        The images and their labels.
    """
    from prolific_core.toybox.world import draw as world

    fractions = {kind: fraction if kind in kinds else 0.0 for kind, fraction in MixConfig()}
    data, half = RenderConfig(mix=MixConfig(**fractions)), count // 2
    examples = [
        world.draw(HELD_OUT_SEED, k, data, SIZE, split="train" if k < half else "heldout") for k in range(count)
    ]
    return np.stack([e.image for e in examples]), [e.label() for e in examples]
