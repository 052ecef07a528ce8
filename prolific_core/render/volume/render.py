"""Volume rendering: a field is evaluated at the ray samples and composited.

This module does not depend on how the field is represented.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.render.volume.compositing import composite
from prolific_core.render.volume.marching import Samples

#: Function from positions (M, 3) to density (M,) per world unit and colour (M, 3) in [0, 1].
Field = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Opacity below which a ray is considered to have hit nothing.
NOTHING = 1e-6


@dataclass
class VolumeRender:
    """Result of rendering R rays with M samples.

    Attributes:
        colour: Colour (R, 3) without a background.
        opacity: Opacity (R,) in [0, 1].
        depth: Expected distance (R,) along the ray where something was hit, in world units, and 0 elsewhere.
        samples: The samples.
        positions: World positions (M, 3) of the samples.
        weights: Contribution (M,) of each sample to its ray.
    """

    colour: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    samples: Samples
    positions: Float[Tensor, "samples 3"]
    weights: Float[Tensor, " samples"]


def shade(
    field: Field,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    samples: Samples,
    backend: str = "auto",
) -> VolumeRender:
    """Evaluate a field at the ray samples and composite the result.

    Example:
        >>> from prolific_core.render.volume.marching import march
        >>> origins, directions = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]])
        >>> samples = march(origins, directions, torch.ones(8, 8, 8, dtype=torch.bool), bound=1.0, step=0.01)
        >>> fog = lambda x: (torch.ones(len(x)), torch.ones(len(x), 3))
        >>> shade(fog, origins, directions, samples).opacity  # 1 - exp(-2)
        tensor([0.8647])

    Args:
        field: Function that returns density and colour at world points.
        origins: Origins (R, 3) of the rays.
        directions: Unit directions (R, 3).
        samples: The samples of the rays; see `marching.march`.
        backend: Compositing backend; see `backends.choose`.

    Returns:
        Colour, opacity and depth of each ray, differentiable in the field's parameters.
    """
    positions = samples.positions(origins, directions)
    density, colour = field(positions)
    result = composite(density, colour, samples, backend=backend)
    depth = torch.where(result.opacity > NOTHING, result.depth / result.opacity.clamp(min=NOTHING), 0.0)
    return VolumeRender(result.colour, result.opacity, depth, samples, positions, result.weights)


def accumulate(
    values: Float[Tensor, "samples channels"], weights: Float[Tensor, " samples"], samples: Samples
) -> Float[Tensor, "rays channels"]:
    """Sum weighted values along each ray.

    Args:
        values: Values (M, C) of the samples.
        weights: Weights (M,) of the samples.
        samples: The samples.

    Returns:
        The sums (R, C).
    """
    total = values.new_zeros(samples.rays, values.shape[1])
    return total.index_add(0, samples.ray_index.long(), weights[:, None] * values)
