"""Every number of the Toybox's training: its unit, default and bounds. priors/<name>/params.yaml is checked here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from prolific_core.config import Fraction, Rate, Section, Steps, SystemConfig

WEIGHTS = Path(__file__).parent / "weights"
SIZE = 64  # side of every image, in pixels
HELD_OUT_SEED = 90001  # of renders that no training uses, for every measurement

Batch = Annotated[int, Field(ge=2, le=4096)]
Folder = Annotated[str | None, Field(max_length=1000)]  # of a published model to continue from, with a fresh optimizer


def _divide(heads: int, name: str, info: ValidationInfo) -> int:
    """The heads, where they divide the width of that name."""
    width = info.data.get(name, heads)  # a width that is wrong itself is told by its own bounds
    if width % heads:
        raise ValueError(f"does not divide {name} = {width}")
    return heads


class Mix(Section):
    """Shares of the kinds of pictures; they need not add up to one."""

    colour: Fraction = 0.59
    normals: Fraction = 0.20
    pair: Fraction = 0.17
    room: Fraction = 0.04

    @model_validator(mode="after")
    def _some(self):
        if not self.colour + self.normals + self.pair + self.room > 0:
            raise ValueError("a mix of nothing: one of its shares must be above 0")
        return self


class Data(Section):
    """The renders. `heldout`: of pairs of family and colour that only the judge and the scorer see."""

    seed: int = Field(1, ge=0)
    images: int = Field(196_608, ge=2)
    heldout: int = Field(20_480, ge=2)
    shard: int = Field(4096, ge=2)  # images a file
    mix: Mix = Mix()
    striped: Fraction = 0.07  # of the single things in colour
    pairs_of_normals: Fraction = 0.12  # of the normal maps


class Autoencoder(Section):
    """AutoencoderKL, 64 x 64 -> 16 x 16 x `latent`."""

    initial: Folder = None  # its encoder stays as it is and is not trained: latents keep their meaning
    latent: int = Field(6, ge=1, le=12)  # the linear decoder that training begins at has room for 12
    linear_steps: Steps = 160  # to fit the linear decoder that training begins at
    steps: Steps = 20_000
    batch: Batch = 8
    learning_rate: Rate = 1.2e-3
    kl: Fraction = 1e-6


class Diffusion(Section):
    """The U-Net of 16 x 16 latents and its text encoder."""

    initial: Folder = None
    # Of its three levels; a norm's groups are 16.
    channels: list[Annotated[int, Field(ge=16, le=2048, multiple_of=16)]] = Field(
        [48, 80, 128], min_length=3, max_length=3
    )
    text_width: int = Field(128, ge=8, le=4096)
    text_layers: int = Field(3, ge=1, le=48)
    text_heads: int = Field(4, ge=1, le=64)
    steps: Steps = 60_000
    batch: Batch = 16  # more steps of 16 beat fewer of 32 while the run is short
    learning_rate: Rate = 6e-4
    warmup: int = Field(300, ge=1)  # steps
    hold: Fraction = 0.1  # of the steps; then the rate falls linearly to zero
    ema: Fraction = 0.999
    drop_caption: Fraction = 0.1
    fronts: Fraction = 0.25  # of a batch: coloured things with a front, from in front of them or behind
    named_views: Fraction = 0.9  # of the captions of things with a front; of all others, half
    time_shift: float = Field(1.3, ge=1, le=10)  # above 1: more steps where there is more noise and the view is decided
    sample_every: Steps = 2000  # a sheet of samples

    @field_validator("text_heads")
    @classmethod
    def _heads_fit(cls, heads: int, info: ValidationInfo) -> int:
        return _divide(heads, "text_width", info)


class Scorer(Section):
    """A small CLIP."""

    initial: Folder = None
    width: int = Field(128, ge=8, le=4096)
    vision_layers: int = Field(4, ge=1, le=48)
    text_layers: int = Field(2, ge=1, le=48)
    heads: int = Field(4, ge=1, le=64)
    patch: int = Field(8, ge=1, le=SIZE)
    projection: int = Field(64, ge=4, le=4096)
    steps: Steps = 6000
    batch: Batch = 128
    learning_rate: Rate = 8e-4

    @field_validator("heads")
    @classmethod
    def _heads_fit(cls, heads: int, info: ValidationInfo) -> int:
        return _divide(heads, "width", info)


class Judge(Section):
    """The classifier."""

    # Of its four levels, each of half the side of the one before.
    channels: list[Annotated[int, Field(ge=4, le=2048)]] = Field([40, 80, 128, 160], min_length=4, max_length=4)
    features: int = Field(64, ge=4, le=4096)
    steps: Steps = 6000
    batch: Batch = 64
    learning_rate: Rate = 2e-3


class Training(Section):
    """priors/<name>/params.yaml: one section per stage."""

    system: SystemConfig = SystemConfig()
    render: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    diffusion: Diffusion = Diffusion()
    scorer: Scorer = Scorer()
    classifier: Judge = Judge()
