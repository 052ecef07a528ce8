"""Every number of the Toybox's training, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(".training/toybox")
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Data:
    seed: int = 1
    images: int = 196608
    shard: int = 4096
    size: int = 64
    mix: dict = field(default_factory=lambda: {"colour": 0.59, "normals": 0.20, "pair": 0.17, "room": 0.04})
    striped: float = 0.07  # of the single things in colour
    pairs_of_normals: float = 0.12  # of the normal maps
    heldout_seed: int = 90001  # held-out renders for every measurement


@dataclass(frozen=True)
class Autoencoder:
    channels: tuple[int, ...] = (16, 32, 32)
    latent: int = 6
    lr: float = 1.2e-3
    batch: int = 8
    kl: float = 1e-6


@dataclass(frozen=True)
class Diffusion:
    channels: tuple[int, ...] = (48, 80, 128)
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    tokens: int = 20
    lr: float = 6e-4
    warmup: int = 300
    batch: int = 16  # more steps of 16 beat fewer of 32 while the run is short
    ema: float = 0.999
    drop_caption: float = 0.1
    clip: float = 1.0
    checkpoint_every: int = 250
    sample_every: int = 1000


@dataclass(frozen=True)
class Scorer:
    width: int = 128
    vision_layers: int = 4
    text_layers: int = 2
    heads: int = 4
    patch: int = 8
    projection: int = 64
    lr: float = 8e-4
    batch: int = 128
    steps: int = 6000


@dataclass(frozen=True)
class Classifier:
    channels: tuple[int, ...] = (40, 80, 128, 160)
    features: int = 64
    lr: float = 2e-3
    batch: int = 64
    steps: int = 6000


DATA, AUTOENCODER, DIFFUSION, SCORER, CLASSIFIER = Data(), Autoencoder(), Diffusion(), Scorer(), Classifier()
