"""Result type of every scene's `render` method."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from prolific_core.render.volume.marching import Samples


@dataclass
class Render:
    """Batch of rendered images of one scene.

    Attributes:
        rgb: Colour (B, 3, H, W), float32 in [0, 1], composited over the background. For scenes with
            `renders_latents`, latents (B, C, H, W).
        opacity: Fraction (B, 1, H, W) in [0, 1] of each pixel that the object covers.
        depth: Distance (B, 1, H, W) to the surface along the unit ray, in world units. For a volume, this is the
            expected distance. It is 0 where nothing was hit.
        normal: Normals (B, 3, H, W) in world axes, mapped by (n + 1) / 2, over grey (0.5) where nothing was hit; None
            unless requested.
        losses: Unweighted scalar regularisers by name, which the training loop weights and adds.
        samples: Packed samples of a volume, which the regularisers use; None for surfaces.
        weights: Compositing weights (M,) of the samples; None for surfaces.
        sample_normals: Unit normals (M, 3) at the samples; None unless normals are requested.
    """

    rgb: Float[Tensor, "batch channels height width"]
    opacity: Float[Tensor, "batch 1 height width"]
    depth: Float[Tensor, "batch 1 height width"] | None = None
    normal: Float[Tensor, "batch 3 height width"] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    samples: Samples | None = None
    weights: Float[Tensor, " samples"] | None = None
    sample_normals: Float[Tensor, "samples 3"] | None = None
