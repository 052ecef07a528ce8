"""What every scene's `render` returns."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

import torch

if TYPE_CHECKING:
    from prolific_core.render.volume.marching import Samples


@dataclass
class Render:
    """One batch of pictures of a scene.

    rgb: (B, 3, H, W) float32 in [0, 1], over the background.
    opacity: (B, 1, H, W) in [0, 1], how much of the object a pixel sees.
    depth: (B, 1, H, W), distance along the unit ray to the surface (its
        expectation, for a volume) in world units; 0 where nothing was hit.
    normal: (B, 3, H, W), world axes mapped by (n + 1) / 2, over grey (0.5)
        where nothing was hit; None unless asked for.
    losses: scalar tensors by name that a scene offers to the loop, unweighted.
    samples, weights: a volume's packed samples and their weights (M,), which
        the regularisers read; None for surfaces.
    sample_normals: (M, 3) unit normals at the samples; with `normal` only.
    """

    rgb: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor | None = None
    normal: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    samples: Optional["Samples"] = None
    weights: torch.Tensor | None = None
    sample_normals: torch.Tensor | None = None
