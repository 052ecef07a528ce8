"""Images as scenes, for distillation in 2D without a renderer (ProlificDreamer, arXiv 2305.16213, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.cameras import Cameras
from prolific_core.render.result import Render
from prolific_core.scenes.base import Scene


class ImageScene(nn.Module, Scene):
    """Batch of images with trainable pixels, which are initialised to noise around grey.

    A scene with several images renders one image per camera, so that all images are trained together. A scene with a
    single image renders it for every camera.

    Args:
        side: Height and width in pixels. Renders have this size regardless of the requested resolution.
        count: Number of images, either 1 or the number of cameras per step.
        learning_rate: Learning rate of the pixels' logits.
        generator: Source of the initial noise. If None, torch's global generator is used.
    """

    def __init__(
        self, side: int, *, count: int = 1, learning_rate: float = 0.1, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.learning_rate = learning_rate
        self.pixels = nn.Parameter(torch.randn(count, 3, side, side, generator=generator) * 0.1)

    def image(self) -> Float[Tensor, "count 3 side side"]:
        """Return the images in [0, 1]."""
        return self.pixels.sigmoid()

    def render(self, cameras: Cameras, resolution: int, generator: torch.Generator | None = None) -> Render:
        """Return one image for each camera; see `Scene.render`."""
        image = self.image().expand(len(cameras), -1, -1, -1)
        return Render(rgb=image, opacity=torch.ones_like(image[:, :1]))


class LatentScene(nn.Module, Scene):
    """Batch of latent images, which are initialised to standard normal noise.

    The guidance is applied without the prior's encoder, so that results do not contain patterns to which only the
    encoder responds.

    Args:
        shape: Channels, height and width of one latent image; see `LatentDiffusion.latent_shape`.
        count: Number of images, either 1 or the number of cameras per step.
        learning_rate: Learning rate of the latents.
        generator: Source of the initial noise. If None, torch's global generator is used.
    """

    renders_latents = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        count: int = 1,
        learning_rate: float = 0.1,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.learning_rate = learning_rate
        self.latents = nn.Parameter(torch.randn(count, *shape, generator=generator))

    def render(self, cameras: Cameras, resolution: int, generator: torch.Generator | None = None) -> Render:
        """Return one latent image for each camera; see `Scene.render`."""
        latents = self.latents.expand(len(cameras), -1, -1, -1)
        return Render(rgb=latents, opacity=torch.ones_like(latents[:, :1]))
