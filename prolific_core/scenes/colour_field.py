"""Colours of a radiance field as a separate module for the texture stage."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.scenes.radiance_field import RadianceField


class ColourField(nn.Module):
    """Trainable colours of world points, initialised from a radiance field.

    Args:
        field: The radiance field.
    """

    def __init__(self, field: RadianceField):
        super().__init__()
        self.field = field

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Return the colours (N, 3) in [0, 1] of world points (N, 3)."""
        return self.field.colour(points)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return the parameter groups "grid" and "networks" with the given learning rates."""
        return self.field.parameter_groups(learning_rates)
