"""Materials of world points: the colours of a radiance field as base colours, with a roughness and a metalness."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.render.networks import perceptron
from prolific_core.scenes.radiance_field import RadianceField

#: Bounds of the roughness. Smoother surfaces would have highlights that are smaller than a pixel.
ROUGHNESS = (0.08, 1.0)

#: Initial roughness and metalness of all points.
START = (0.7, 0.05)


class MaterialField(nn.Module):
    """Trainable materials, as in Fantasia3D (arXiv 2303.13873, section 3.3), which share one encoding of the points.

    Args:
        field: The radiance field, whose colours become the base colours.
        generator: Source of the initial weights. Roughness and metalness are the same everywhere at first.
    """

    def __init__(self, field: RadianceField, generator: torch.Generator | None = None):
        super().__init__()
        self.field = field
        config = field.config
        self.surface = perceptron(field.encoding.width, config.hidden_width, config.hidden_layers, 2, generator)
        low, high = ROUGHNESS
        start = ((START[0] - low) / (high - low), START[1])
        last: Any = self.surface[-1]
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.copy_(torch.tensor([math.log(value / (1 - value)) for value in start]))

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 5"]:
        """Return sRGB base colours, roughness and metalness (N, 5) in [0, 1] of world points (N, 3)."""
        features = self.field.encoding((points / self.field.config.bound + 1) / 2)
        base = torch.sigmoid(self.field.network(features)[:, 1:])
        roughness, metallic = torch.sigmoid(self.surface(features)).split(1, dim=-1)
        low, high = ROUGHNESS
        return torch.cat([base, low + (high - low) * roughness, metallic], dim=-1)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return the parameter groups "grid" and "networks" with the given learning rates."""
        groups = self.field.parameter_groups(learning_rates)
        for group in groups:
            if group["name"] == "networks":
                group["params"] += list(self.surface.parameters())
        return groups
