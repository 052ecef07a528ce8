"""Parameters of the Toybox training, with units, defaults and bounds that priors/<name>/params.yaml is checked by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from prolific_core.config import Fraction, Rate, Section, Steps, SystemConfig

WEIGHTS = Path(__file__).parent / "weights"
SIZE = 64  # Side of every image, in pixels.
HELD_OUT_SEED = 90001  # Seed of the renders that metrics use and training never does.

Batch = Annotated[int, Field(ge=2, le=4096)]
# Folder of a published model to continue from, with a fresh optimizer.
Folder = Annotated[str | None, Field(max_length=1000)]


def _divide(heads: int, name: str, values: dict[str, Any]) -> int:
    """Return the number of heads if it divides the width with that name."""
    width = values.get(name, heads)  # A width that is itself invalid is reported by its own bounds.
    if width % heads:
        raise ValueError(f"does not divide {name} = {width}")
    return heads


class MixConfig(Section):
    """Fractions of the kinds of images, which need not sum to one."""

    colour: Fraction = 0.59
    normals: Fraction = 0.20
    pair: Fraction = 0.17
    room: Fraction = 0.04

    @model_validator(mode="after")
    def _some(self):
        if not self.colour + self.normals + self.pair + self.room > 0:
            raise ValueError("the mix is empty: at least one of its fractions must be above 0")
        return self


class RenderConfig(Section):
    """The rendered data set.

    Attributes:
        seed: Seed of the training images; the held-out ones use the next.
        images: Number of training images.
        heldout: Number of images of pairs of family and colour that only the classifier and the scorer see.
        shard: Images per file.
        mix: Fractions of the kinds of images.
        striped: Fraction of the single coloured objects that have stripes.
        pairs_of_normals: Fraction of the normal maps that show two objects.
    """

    seed: int = Field(default=1, ge=0)
    images: int = Field(default=196_608, ge=2)
    heldout: int = Field(default=20_480, ge=2)
    shard: int = Field(default=4096, ge=2)
    mix: MixConfig = MixConfig()
    striped: Fraction = 0.07
    pairs_of_normals: Fraction = 0.12


class AutoencoderConfig(Section):
    """The AutoencoderKL from 64 x 64 pixels to 16 x 16 x `latent`.

    Attributes:
        initial: Folder of a published model whose autoencoder is used unchanged, so that its latents stay valid.
        latent: Channels of the latents; the linear decoder that training starts from has room for 12.
        linear_steps: Steps that fit the linear decoder.
        steps: Training steps.
        batch: Images per step.
        learning_rate: Peak learning rate.
        kl: Weight of the KL term.
    """

    initial: Folder = None
    latent: int = Field(default=6, ge=1, le=12)
    linear_steps: Steps = 160
    steps: Steps = 20_000
    batch: Batch = 8
    learning_rate: Rate = 1.2e-3
    kl: Fraction = 1e-6


class DiffusionConfig(Section):
    """The U-Net on 16 x 16 latents and its text encoder.

    Attributes:
        initial: Folder of a published model to continue from.
        channels: Channels of the three levels; they are multiples of 16, the number of groups in a group norm.
        text_width: Width of the text encoder.
        text_layers: Layers of the text encoder.
        text_heads: Attention heads of the text encoder.
        steps: Training steps.
        batch: Images per step; more steps of 16 do better than fewer of 32 while the training is short.
        learning_rate: Peak learning rate.
        warmup: Steps in which the learning rate rises.
        hold: Fraction of the steps after which the learning rate falls linearly to zero.
        ema: Decay of the averaged weights.
        drop_caption: Fraction of the captions replaced by the empty one, for classifier-free guidance.
        fronts: Fraction of a batch that shows the front or the back of coloured objects that have a front.
        named_views: Fraction of the captions of objects with a front that name the view; of all others, half do.
        time_shift: Shift of the timesteps towards noise, where the view is decided; 1 draws them uniformly.
        sample_every: Steps between two previews.
    """

    initial: Folder = None
    channels: list[Annotated[int, Field(ge=16, le=2048, multiple_of=16)]] = Field(
        default=[48, 80, 128], min_length=3, max_length=3
    )
    text_width: int = Field(default=128, ge=8, le=4096)
    text_layers: int = Field(default=3, ge=1, le=48)
    text_heads: int = Field(default=4, ge=1, le=64)
    steps: Steps = 60_000
    batch: Batch = 16
    learning_rate: Rate = 6e-4
    warmup: int = Field(default=300, ge=1)
    hold: Fraction = 0.1
    ema: Fraction = 0.999
    drop_caption: Fraction = 0.1
    fronts: Fraction = 0.25
    named_views: Fraction = 0.9
    time_shift: float = Field(default=1.3, ge=1, le=10)
    sample_every: Steps = 2000

    @field_validator("text_heads")
    @classmethod
    def _heads_fit(cls, heads: int, info: Any) -> int:
        return _divide(heads, "text_width", info.data)


class ScorerConfig(Section):
    """The scorer, a small CLIP model.

    Attributes:
        initial: Folder of a published model to continue from.
        width: Width of both transformers.
        vision_layers: Layers of the image encoder.
        text_layers: Layers of the text encoder.
        heads: Attention heads of both.
        patch: Side of an image patch, in pixels.
        projection: Dimensions of the shared embedding.
        steps: Training steps.
        batch: Images per step.
        learning_rate: Peak learning rate.
    """

    initial: Folder = None
    width: int = Field(default=128, ge=8, le=4096)
    vision_layers: int = Field(default=4, ge=1, le=48)
    text_layers: int = Field(default=2, ge=1, le=48)
    heads: int = Field(default=4, ge=1, le=64)
    patch: int = Field(default=8, ge=1, le=SIZE)
    projection: int = Field(default=64, ge=4, le=4096)
    steps: Steps = 6000
    batch: Batch = 128
    learning_rate: Rate = 8e-4

    @field_validator("heads")
    @classmethod
    def _heads_fit(cls, heads: int, info: Any) -> int:
        return _divide(heads, "width", info.data)


class ClassifierConfig(Section):
    """The classifier that metrics use.

    Attributes:
        channels: Channels of the four levels, each with half the resolution of the one before.
        features: Dimensions of the features.
        steps: Training steps.
        batch: Images per step.
        learning_rate: Peak learning rate.
    """

    channels: list[Annotated[int, Field(ge=4, le=2048)]] = Field(default=[40, 80, 128, 160], min_length=4, max_length=4)
    features: int = Field(default=64, ge=4, le=4096)
    steps: Steps = 6000
    batch: Batch = 64
    learning_rate: Rate = 2e-3


class TrainingConfig(Section):
    """All of priors/<name>/params.yaml: one section per stage, and the machine's."""

    system: SystemConfig = SystemConfig()
    render: RenderConfig = RenderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    scorer: ScorerConfig = ScorerConfig()
    classifier: ClassifierConfig = ClassifierConfig()
