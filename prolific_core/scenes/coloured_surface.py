"""Surface whose shape and colours are optimised together (Magic3D, arXiv 2211.10440, section 4.2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prolific_core.cameras import Cameras
from prolific_core.render.mesh.raster import Hits
from prolific_core.render.result import Render
from prolific_core.scenes.backgrounds import some_random
from prolific_core.scenes.base import Scene
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.shading import draw_lights
from prolific_core.scenes.surface import TetrahedralSurface


def join(surfaces: Sequence[TetrahedralSurface], fields: Sequence[RadianceField]) -> list["ColouredSurface"]:
    """Return surfaces with the colours of the fields that they come from."""
    return [ColouredSurface(surface, ColourField(field)) for surface, field in zip(surfaces, fields, strict=True)]


class ColouredSurface(nn.Module, Scene):
    """Tetrahedral surface that is rendered with the colours of a field instead of its normals.

    The gradient of a render reaches the signed distances, the deformation and the colours. The background is white, or
    a plain random colour with the probability `train_config.random_background` in training renders, which
    `train_config.shading` may light.

    Args:
        surface: The surface, whose `train_config` has the learning rates of the colours, too.
        colour: The colours.
    """

    def __init__(self, surface: TetrahedralSurface, colour: ColourField):
        super().__init__()
        self.surface, self.colour = surface, colour

    def render(self, cameras: Cameras, resolution: int, generator: torch.Generator | None = None) -> Render:
        """Render one image for each camera; see `Scene.render` and `TetrahedralSurface.render`.

        Args:
            cameras: Cameras on the scene's device.
            resolution: Height and width of the images in pixels.
            generator: Source of the random backgrounds and lights of training renders.
        """
        background, lights = torch.ones(len(cameras), 3, 1, 1), None
        if generator is not None:
            config = self.surface.train_config
            background = some_random(background, config.random_background, generator)
            lights = draw_lights(config.shading, cameras, self.progress, generator)

        def colours(hits: Hits, points: Tensor, normals: Tensor) -> Tensor:
            albedo = self.colour(points)
            return lights.shade(albedo, normals, points, hits.image_index) if lights else albedo

        return self.surface.render(cameras, resolution, generator, shader=colours, background=background)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters of the shape and of the colours with their learning rates."""
        config = self.surface.train_config
        rates = {"grid": config.grid_learning_rate, "networks": config.network_learning_rate}
        return [*self.surface.parameter_groups(), *self.colour.parameter_groups(rates)]

    def losses(self, render: Render, progress: float) -> dict[str, Tensor]:
        """Return the weighted regularisers of the shape; see `TetrahedralSurface.losses`."""
        return self.surface.losses(render, progress)
