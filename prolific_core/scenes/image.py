"""The simplest scenes: images as the particles, no 3D (the paper's controlled experiment).

One scene can hold several, which are then rendered, and so optimised, together.
"""

import torch
from torch import Tensor, nn

from prolific_core.render.result import Render


class ImageScene(nn.Module):
    """Pictures (count, 3, S, S) in [0, 1]; they start as noise around grey. Each camera sees its own, or all see the one."""

    def __init__(self, side: int, *, count: int = 1, generator: torch.Generator):
        super().__init__()
        self.pixels = nn.Parameter(torch.randn(count, 3, side, side, generator=generator) * 0.1)

    def image(self) -> Tensor:
        return self.pixels.sigmoid()

    def render(self, views: int) -> Render:
        image = self.image().expand(views, -1, -1, -1)
        return Render(rgb=image, opacity=torch.ones_like(image[:, :1]))


class LatentScene(nn.Module):
    """Pictures' latents (count, C, h, w), to be decoded by who looks at them; they start as noise N(0, I).

    Between the estimator and these particles there is no encoder, whose gradient is fond of patterns
    that only it sees.
    """

    def __init__(self, shape: tuple[int, int, int], *, count: int = 1, generator: torch.Generator):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(count, *shape, generator=generator))

    def render(self, views: int) -> Render:
        latents = self.latents.expand(views, -1, -1, -1)
        return Render(rgb=latents, opacity=torch.ones_like(latents[:, :1]))
