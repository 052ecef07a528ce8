"""The simplest scene: one image as the particle, no 3D (the paper's controlled experiment)."""

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
