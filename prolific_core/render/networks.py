"""Small multilayer perceptrons of a radiance field."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def perceptron(inputs: int, width: int, layers: int, outputs: int, generator: torch.Generator | None) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU activations and a linear last layer.

    The initial weights are He-uniform (He et al. 2015, arXiv 1502.01852) in hidden layers and Xavier-uniform (Glorot
    and Bengio 2010) in the last layer. The initial biases are zero.

    Args:
        inputs: Number of input features.
        width: Number of features of each hidden layer.
        layers: Number of hidden layers.
        outputs: Number of output features.
        generator: Source of the initial weights.

    Returns:
        A module that maps (..., inputs) to (..., outputs).
    """
    sizes = [inputs, *[width] * layers, outputs]
    modules: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
        last = index == layers
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        assert isinstance(linear, nn.Linear)
        limit = math.sqrt(6 / (fan_in + fan_out)) if last else math.sqrt(6 / fan_in)
        nn.init.uniform_(linear.weight, -limit, limit, generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear] if last else [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def harmonics(directions: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays 9"]:
    """Return the real spherical harmonics of degrees 0 to 2, up to constant factors.

    Args:
        directions: Unit vectors (..., 3).

    Returns:
        The nine basis functions (..., 9).
    """
    x, y, z = directions.unbind(-1)
    terms = [torch.ones_like(x), x, y, z, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]
    return torch.stack(terms, dim=-1)


class Background(nn.Module):
    """Trainable colour of the surroundings as a function of the viewing direction.

    Example:
        >>> background = Background(16, torch.Generator().manual_seed(0))
        >>> background(torch.tensor([[0.0, 0.0, 1.0]])).shape
        torch.Size([1, 3])

    Args:
        width: Number of features of the hidden layer.
        generator: Source of the initial weights.
    """

    def __init__(self, width: int, generator: torch.Generator | None):
        super().__init__()
        self.network = perceptron(9, width, 1, 3, generator)

    def forward(self, directions: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays 3"]:
        """Return the colour (..., 3) in [0, 1] for unit directions (..., 3)."""
        return torch.sigmoid(self.network(harmonics(directions)))
