"""Rendering a volume: march, ask the field, composite. Nothing here knows what the field is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prolific_core.render.volume.compositing import composite
from prolific_core.render.volume.marching import Samples, march

#: A field: positions (M, 3) -> density (M,) per world unit and colour (M, 3) in [0, 1].
Field = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Opacity below which a ray counts as having hit nothing.
NOTHING = 1e-6


@dataclass
class VolumeRender:
    """R rays: colour (R, 3) without background, opacity (R,), depth (R,) the
    expected distance where something was hit and 0 elsewhere; the samples and
    their positions (M, 3) and weights (M,)."""

    colour: Tensor
    opacity: Tensor
    depth: Tensor
    samples: Samples
    positions: Tensor
    weights: Tensor


def render_volume(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    occupied: Tensor,
    *,
    bound: float,
    step: float,
    near: float = 0.0,
    far: float = 1e10,
    generator: torch.Generator | None = None,
    max_samples: int | None = None,
    backend: str = "auto",
) -> VolumeRender:
    """Render rays (R, 3); see `marching.march` for the parameters."""
    samples = march(
        origins,
        directions,
        occupied,
        bound=bound,
        step=step,
        near=near,
        far=far,
        generator=generator,
        max_samples=max_samples,
        backend=backend,
    )
    return shade(field, origins, directions, samples, backend)


def shade(field: Field, origins: Tensor, directions: Tensor, samples: Samples, backend: str = "auto") -> VolumeRender:
    """The picture that samples of rays (R, 3) make: ask the field, composite."""
    positions = samples.positions(origins, directions)
    density, colour = field(positions)
    result = composite(density, colour, samples, backend=backend)
    depth = torch.where(result.opacity > NOTHING, result.depth / result.opacity.clamp(min=NOTHING), 0.0)
    return VolumeRender(result.colour, result.opacity, depth, samples, positions, result.weights)


def accumulate(values: Tensor, weights: Tensor, samples: Samples) -> Tensor:
    """Sum of weights (M,) times values (M, C) along each ray: (R, C)."""
    total = values.new_zeros(samples.rays, values.shape[1])
    return total.index_add(0, samples.ray_index.long(), weights[:, None] * values)
