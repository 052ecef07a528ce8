"""Classifier for the family, colour and view of objects in images of the Toybox world.

It is trained on true renders only (`prolific_core/toybox/training/classifier.py`), never on generated images. It is
used neither for optimisation nor for selection, so its agreement with a prompt is an independent metric.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from prolific_core.toybox.params import WEIGHTS

SINGLE = ("family", "colour", "view", "sector")  # heads for one object
PAIR = ("first_family", "first_colour", "second_family", "second_colour", "place")  # heads for two objects
HEADS = (*SINGLE, *PAIR)


@dataclass(frozen=True)
class Classification:
    """Predictions for a batch of images.

    The family, colour and view are predicted for a single object. Predictions for two objects are available only in
    `log_probabilities`.

    Attributes:
        family: Indices into `names["family"]`.
        colour: Indices into `names["colour"]`.
        view: Indices into `names["view"]`.
        names: Names of the classes, by kind.
        features: Activations before the SiLU that precedes the heads.
        log_probabilities: Log-probabilities of the classes, by head.
    """

    family: Int[Tensor, " batch"]
    colour: Int[Tensor, " batch"]
    view: Int[Tensor, " batch"]
    names: dict[str, list[str]]
    features: Float[Tensor, "batch features"]
    log_probabilities: dict[str, Tensor]


class ClassifierNetwork(nn.Module):
    """Convolutional network with one linear head per entry of `HEADS`.

    Args:
        names: Names of the classes of each kind: "family", "colour", "view", "sector" and "place".
        channels: Channels of the four levels, each with half the resolution of the previous one.
        features: Dimension of the features, from which the heads for one object are computed.
        pair_features: Dimension of the features for two objects.
    """

    def __init__(self, names: dict[str, list[str]], channels: list[int], features: int, pair_features: int):
        super().__init__()
        widths = (3, *channels)
        self.body = nn.Sequential(*[_Block(a, b) for a, b in zip(widths, widths[1:])])
        self.project = nn.Linear(channels[-1] * 16, features)
        self.project_pair = nn.Linear(channels[-1] * 16, pair_features)
        sizes = dict.fromkeys(SINGLE, features) | dict.fromkeys(PAIR, pair_features)
        self.heads = nn.ModuleDict({head: nn.Linear(size, len(names[_kind(head)])) for head, size in sizes.items()})

    def forward(
        self, images: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch features"]]:
        """Compute the logits of all heads and the features.

        Args:
            images: sRGB in [0, 1].

        Returns:
            Logits (batch, classes) by head, and the features.
        """
        body = self.body(images * 2 - 1).flatten(1)
        x = self.project(body)
        single, pair = F.silu(x), F.silu(self.project_pair(body))
        return {name: head(single if name in SINGLE else pair) for name, head in self.heads.items()}, x


class _Block(nn.Module):
    """Convolution that halves the resolution, followed by a residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU(inplace=True)
        )
        self.residual = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return F.silu(x + self.residual(x))


def _kind(head: str) -> str:
    """Return the kind of class that a head predicts, such as "family" for the head "first_family"."""
    return head.split("_")[-1]


class Classifier:
    """Trained classifier for inference.

    Args:
        network: Network with trained weights.
        names: Names of the classes of each kind.
    """

    def __init__(self, network: ClassifierNetwork, names: dict[str, list[str]]):
        self.network, self.names = network.eval().requires_grad_(False), names

    def answers(self, images: Float[Tensor, "batch 3 height width"]) -> list[dict[str, str]]:
        """Return the name of the most likely class for each image and head.

        Args:
            images: sRGB in [0, 1].

        Returns:
            One dict per image, which maps each head to a class name.
        """
        best = {head: log.argmax(1).tolist() for head, log in self.classify(images).log_probabilities.items()}
        return [{head: self.names[_kind(head)][rows[k]] for head, rows in best.items()} for k in range(len(images))]

    def classify(self, images: Float[Tensor, "batch 3 height width"]) -> Classification:
        """Classify images after resizing them to 64 x 64 pixels if necessary.

        Args:
            images: sRGB in [0, 1].

        Returns:
            The predictions, features and log-probabilities of the batch.
        """
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        with torch.no_grad():
            outputs = [self.network(part) for part in images.float().split(128)]
        log_probabilities = {head: torch.cat([logits[head] for logits, _ in outputs]).log_softmax(1) for head in HEADS}
        family, colour, view = (log_probabilities[head].argmax(1) for head in ("family", "colour", "view"))
        features = torch.cat([features for _, features in outputs])
        return Classification(family, colour, view, self.names, features, log_probabilities)


def load_classifier(path: Path | str | None = None) -> Classifier:
    """Load a trained classifier.

    Args:
        path: Folder with config.json and model.safetensors; defaults to the classifier that ships with the package.

    Returns:
        The classifier, in float32 on the CPU.
    """
    from safetensors.torch import load_file

    folder = Path(path) if path else WEIGHTS / "classifier"
    config = json.loads((folder / "config.json").read_text())
    network = ClassifierNetwork(config["names"], config["channels"], config["features"], config["pair_features"])
    state = load_file(folder / "model.safetensors")
    network.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()})
    return Classifier(network, config["names"])
