"""Fit a radiance field to true renders of an object of the Toybox world, for `prolific bench asset`.

The true renders take the place of the guidance: the field, its cameras, steps and learning rates are those of a run,
and no prior is involved. The result shows what the stages after the radiance field lose.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core import cameras
from prolific_core.cameras import Cameras
from prolific_core.config import Config
from prolific_core.optimise import resolution_at
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.seeding import generator
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world.renderer import Tracer
from prolific_core.toybox.world.scene import Look


@dataclass(frozen=True)
class TrueObject:
    """True object of the Toybox world that matches a prompt.

    Attributes:
        scene: The object's coloured mesh.
        tracer: Ray tracer of the mesh.
    """

    scene: world.Scene
    tracer: Tracer

    @classmethod
    def of(cls, prompt: str, seed: int = 0) -> "TrueObject":
        """Return the object of a prompt and a seed.

        Args:
            prompt: Prompt that describes one object of the Toybox world.
            seed: Seed of the object.

        Raises:
            ValueError: The prompt cannot be parsed.
        """
        scene = world.sample(prompt, 1, seed)[0]
        return cls(scene, Tracer(scene))

    def render(
        self, views: Cameras, side: int, background: Float[Tensor, "batch 3"], normals: bool = False
    ) -> Float[Tensor, "batch 3 side side"]:
        """Render the object in the world's default light.

        Args:
            views: The B cameras.
            side: Height and width of the images in pixels.
            background: Plain background (B, 3) of each image, in [0, 1].
            normals: Whether to render normals over grey instead of colours.

        Returns:
            Images (B, 3, S, S) in [0, 1].
        """
        images = []
        for pose, fov, (red, green, blue) in zip(views.c2w.numpy(), views.fov.tolist(), background.tolist()):
            look = Look(background=(red, green, blue), normals=normals)
            images.append(self.tracer.render(pose, fov, look, side, samples=3))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def supervised(target: TrueObject, config: Config, seed: int = 0) -> RadianceField:
    """Fit a field to true renders of an object.

    Each step minimises the mean squared error of renders over random plain backgrounds, which also show the object's
    opacity. The regularisers of a run are left out, because they counteract the guidance.

    Args:
        target: The object.
        config: Configuration of a run, of which `initialise.field` and `nerf` are used.
        seed: Seed of all random numbers.

    Returns:
        The field. The same arguments give bitwise identical results on the same type of processor.
    """
    nerf = config.nerf.model_copy(update={"random_background": 0.0})
    field = RadianceField(
        config.initialise.field, generator(seed, "field", 0), config.system.backend, train_config=nerf
    )
    optimizer = torch.optim.Adam(field.parameter_groups(), betas=(0.9, 0.99), eps=1e-15)
    for step in range(nerf.steps):
        draw = generator(seed, "supervised", step)
        field.before_step(step, draw)
        views = cameras.sample(nerf.views, nerf.cameras, draw)
        behind = torch.rand(nerf.views, 3, generator=draw)
        side = resolution_at(nerf.resolution, step / nerf.steps)
        image = field.render(views, side, draw, background=behind).rgb
        loss = (image - target.render(views, side, behind)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return field
