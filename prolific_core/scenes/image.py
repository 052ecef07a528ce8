"""The simplest scenes: one image as the particle, no 3D (the paper's controlled experiment)."""

import torch
from torch import Tensor, nn

from prolific_core.render.result import Render


class ImageScene(nn.Module):
    """A picture (1, 3, S, S) in [0, 1] that every camera sees; starts as noise around grey."""

    def __init__(self, side: int, *, generator: torch.Generator):
        super().__init__()
        self.pixels = nn.Parameter(torch.randn(1, 3, side, side, generator=generator) * 0.1)

    def image(self) -> Tensor:
        return self.pixels.sigmoid()

    def render(self, views: int) -> Render:
        image = self.image().expand(views, -1, -1, -1)
        return Render(rgb=image, opacity=torch.ones_like(image[:, :1]))


class LatentScene(nn.Module):
    """A picture's latents (1, C, h, w), to be decoded by who looks at it; starts as noise N(0, I).

    Between the estimator and these particles there is no encoder, whose gradient is fond of patterns
    that only it sees.
    """

    def __init__(self, shape: tuple[int, int, int], *, generator: torch.Generator):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, *shape, generator=generator))

    def render(self, views: int) -> Render:
        latents = self.latents.expand(views, -1, -1, -1)
        return Render(rgb=latents, opacity=torch.ones_like(latents[:, :1]))
