"""The colour half of a radiance field, as a module of its own: what the texture stage optimises."""

from torch import Tensor, nn

from prolific_core.scenes.radiance_field import RadianceField


class ColourField(nn.Module):
    """World points (N, 3) -> colours (N, 3) in [0, 1]; starts as the field's own colours."""

    def __init__(self, field: RadianceField):
        super().__init__()
        self.field = field

    def forward(self, points: Tensor) -> Tensor:
        return self.field.colour(points)

    def parameter_groups(self, learning_rates: dict[str, float]) -> list[dict]:
        """The field's groups "grid" and "networks"; its background is not this stage's."""
        groups = self.field.parameter_groups(learning_rates | {"background": 0.0})
        return [group for group in groups if group["name"] != "background"]
