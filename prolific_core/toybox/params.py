"""Schema of priors/<name>/params.yaml, which contains the parameters for training the Toybox models.

The schema defines the default and the bounds of each parameter and documents its unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from prolific_core.config import Distance, Fov, Fraction, Rate, Section, Steps, SystemConfig, ordered

WEIGHTS = Path(__file__).parent / "weights"
SIZE = 64  # Height and width of every image, in pixels.
HELD_OUT_SEED = 90001  # Seed of the renders on which metrics are computed; training never uses it.

Precision = Literal["float32", "bfloat16"]
Batch = Annotated[int, Field(ge=2, le=4096)]
# Folder of a published model whose training is continued with a new optimizer.
Folder = Annotated[str | None, Field(max_length=1000)]


def _divide(heads: int, name: str, values: dict[str, Any]) -> int:
    """Return the number of attention heads, or raise ValueError if it does not divide the named width."""
    width = values.get(name, heads)  # An invalid width is missing from `values` and is reported by its own field.
    if width % heads:
        raise ValueError(f"must divide {name} = {width}")
    return heads


class MixConfig(Section):
    """Fractions of the kinds of images. They are normalised, so they do not have to sum to one."""

    colour: Fraction = 0.59
    normals: Fraction = 0.20
    pair: Fraction = 0.17
    room: Fraction = 0.04

    @model_validator(mode="after")
    def _some(self):
        if not self.colour + self.normals + self.pair + self.room > 0:
            raise ValueError("at least one fraction of the mix must be greater than 0")
        return self


class RenderConfig(Section):
    """Parameters of the rendered data set.

    Attributes:
        seed: Seed of the training images; the held-out images use seed + 1.
        images: Number of training images.
        heldout: Number of images with held-out pairs of family and colour. Only the classifier and the scorer are
            trained on these images.
        shard: Number of images per shard.
        mix: Fractions of the kinds of images.
        striped: Fraction of the single coloured objects that have stripes.
        pairs_of_normals: Fraction of the normal maps that show two objects.
        distance: Smallest and largest distance of the camera from the origin, except in rooms.
        fov: Smallest and largest vertical field of view in degrees, except in rooms.
        samples: Number of rays per pixel along each image axis.
    """

    seed: int = Field(default=1, ge=0)
    images: int = Field(default=196_608, ge=2)
    heldout: int = Field(default=20_480, ge=2)
    shard: int = Field(default=4096, ge=2)
    mix: MixConfig = MixConfig()
    striped: Fraction = 0.07
    pairs_of_normals: Fraction = 0.12
    distance: Annotated[tuple[Distance, Distance], AfterValidator(ordered)] = (1.3, 1.5)
    fov: Annotated[tuple[Fov, Fov], AfterValidator(ordered)] = (43.0, 48.0)
    samples: int = Field(default=3, ge=1, le=16)


class AutoencoderConfig(Section):
    """Parameters of the AutoencoderKL, which encodes 64 x 64 pixels as 16 x 16 latents.

    Attributes:
        initial: Folder of a published model whose autoencoder is used unchanged, so that its latents remain valid.
        latent: Number of latent channels; the initial linear codec supports at most 12.
        linear_steps: Number of steps for fitting the linear decoder.
        steps: Number of training steps.
        batch: Images per step.
        learning_rate: Peak learning rate.
        equivariance: Weight of the loss on downscaled latents (`training.autoencoder.loss_of`).
        noise: Largest standard deviation of the noise on the latents, relative to their root mean square.
    """

    initial: Folder = None
    latent: int = Field(default=6, ge=1, le=12)
    linear_steps: Steps = 160
    steps: Steps = 8_000
    batch: Batch = 8
    learning_rate: Rate = 1.2e-3
    equivariance: Fraction = 0.5
    noise: Fraction = 0.2


class TextConfig(Section):
    """Parameters of the text encoder, which the U-Net and the scorer share.

    Attributes:
        initial: Folder of a published model whose text encoder is used unchanged.
        width: Width of the text encoder.
        layers: Number of layers.
        heads: Number of attention heads.
        steps: Number of training steps.
        batch: Captions per step.
        learning_rate: Peak learning rate.
    """

    initial: Folder = None
    width: int = Field(default=128, ge=8, le=4096, multiple_of=8)
    layers: int = Field(default=3, ge=1, le=48)
    heads: int = Field(default=4, ge=1, le=64)
    steps: Steps = 1500
    batch: Batch = 128
    learning_rate: Rate = 1e-3

    @field_validator("heads")
    @classmethod
    def _heads_fit(cls, heads: int, info: Any) -> int:
        return _divide(heads, "width", info.data)


class DiffusionConfig(Section):
    """Parameters of the U-Net on 16 x 16 latents.

    Attributes:
        initial: Folder of a published model whose U-Net is trained further.
        channels: Channels of the three levels; multiples of 16, because each group norm has 16 groups.
        steps: Number of training steps.
        decay: Number of steps at the end of the training over which the learning rate decays linearly to zero. `steps`
            can be raised later: the training then continues from the step at which the decay began.
        batch: Images per step.
        learning_rate: Peak learning rate of AdamW; that of Muon is twice as large (`training.muon`).
        warmup: Number of steps over which the learning rate rises.
        average_power: Exponent of the average of the weights (`training.loop.Training`).
        precision: Precision of the U-Net's matrix products and convolutions in training. bfloat16 is faster only on
            processors that support it.
        drop_caption: Fraction of the captions that are replaced by the empty caption, for classifier-free guidance.
        fronts: Fraction of each batch that is reserved for front and back views of coloured objects that have a front.
        pairs: Fraction of each batch that is reserved for images of two objects.
        named_views: Fraction of the captions that name the view, for objects that have a front. For all other
            images, the fraction is 0.5.
        details: Fraction of the captions that name each of the other details (`world.details`).
        time_shift: Factor that shifts the timesteps towards high noise levels, at which the view is determined. A
            factor of 1 samples the timesteps uniformly.
        sample_every: Number of steps between two previews.
    """

    initial: Folder = None
    channels: list[Annotated[int, Field(ge=16, le=2048, multiple_of=16)]] = Field(
        default=[64, 96, 160], min_length=3, max_length=3
    )
    steps: Steps = 30_000
    decay: Steps = 6_000
    batch: Batch = 64
    learning_rate: Rate = 1e-3
    warmup: int = Field(default=150, ge=1)
    average_power: float = Field(default=7.0, ge=0, le=1000)
    precision: Precision = "bfloat16"
    drop_caption: Fraction = 0.1
    fronts: Fraction = 0.2
    pairs: Fraction = 0.2
    named_views: Fraction = 0.9
    details: Fraction = 0.4
    time_shift: float = Field(default=1.0, ge=1, le=10)
    sample_every: Steps = 2000


class ScorerConfig(Section):
    """Parameters of the scorer, a small CLIP model with the frozen text encoder of the prior.

    Attributes:
        initial: Folder of a published model to continue from.
        width: Width of the image encoder.
        layers: Number of layers of the image encoder.
        heads: Number of attention heads of the image encoder.
        patch: Height and width of an image patch, in pixels.
        projection: Dimension of the shared embedding.
        steps: Number of training steps.
        batch: Images per step.
        learning_rate: Peak learning rate.
    """

    initial: Folder = None
    width: int = Field(default=128, ge=8, le=4096)
    layers: int = Field(default=4, ge=1, le=48)
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
    """Parameters of the classifier, which is used for metrics.

    Attributes:
        channels: Channels of the four levels, each with half the resolution of the previous one.
        features: Dimension of the features.
        pair_features: Dimension of the features of two objects.
        steps: Number of training steps.
        batch: Images per step.
        learning_rate: Peak learning rate.
        pairs: Fraction of each batch that shows two objects.
        precision: Precision of the matrix products and convolutions in training.
    """

    channels: list[Annotated[int, Field(ge=4, le=2048)]] = Field(default=[40, 80, 128, 160], min_length=4, max_length=4)
    features: int = Field(default=64, ge=4, le=4096)
    pair_features: int = Field(default=256, ge=4, le=4096)
    pairs: Fraction = 0.4
    precision: Precision = "bfloat16"
    steps: Steps = 10_000
    batch: Batch = 64
    learning_rate: Rate = 2e-3


class TrainingConfig(Section):
    """Contents of priors/<name>/params.yaml, with one section per stage and one for the machine."""

    system: SystemConfig = SystemConfig()
    render: RenderConfig = RenderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text: TextConfig = TextConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    scorer: ScorerConfig = ScorerConfig()
    classifier: ClassifierConfig = ClassifierConfig()
