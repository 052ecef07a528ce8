"""The small networks of a radiance field."""

import math

import torch
from torch import Tensor, nn


def perceptron(inputs: int, width: int, layers: int, outputs: int, generator: torch.Generator | None) -> nn.Sequential:
    """`layers` hidden ReLU layers of `width`, then a linear layer.

    Weights are He-uniform for the hidden layers (He et al. 2015) and
    Xavier-uniform for the last, biases zero, all drawn from `generator`.
    """
    sizes = [inputs, *[width] * layers, outputs]
    modules: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
        last = index == layers
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        limit = math.sqrt(6 / (fan_in + fan_out)) if last else math.sqrt(6 / fan_in)
        nn.init.uniform_(linear.weight, -limit, limit, generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear] if last else [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics of degree 0 to 2, up to constant factors: (..., 3) -> (..., 9)."""
    x, y, z = directions.unbind(-1)
    terms = [torch.ones_like(x), x, y, z, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]
    return torch.stack(terms, dim=-1)


class Background(nn.Module):
    """Colour of the surroundings: unit directions (..., 3) -> (..., 3) in [0, 1]."""

    def __init__(self, width: int, generator: torch.Generator | None):
        super().__init__()
        self.network = perceptron(9, width, 1, 3, generator)

    def forward(self, directions: Tensor) -> Tensor:
        return torch.sigmoid(self.network(harmonics(directions)))
