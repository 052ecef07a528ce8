"""Lambertian shading of a radiance field (DreamFusion, arXiv 2209.14988, section 3.2).

A point x with the albedo rho and the normal n has, under a point light at l, the colour

    c = rho (l_rho max(0, n . (l - x) / |l - x|) + l_a)

with the ambient light l_a and the point light l_rho = 1 - l_a, so that a surface that faces the light shows its albedo.
The light is near the camera. An object that is painted on a flat surface does not look right under moving lights, and
without texture (rho = 1) the shape alone has to look like the object.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.config import ShadingConfig

#: Bounds of the lights' distances from the origin in world units.
DISTANCE = (0.8, 1.5)


@dataclass(frozen=True)
class Lights:
    """Point lights, one for each image or for each ray.

    Attributes:
        positions: World positions (N, 3).
        ambient: Ambient light l_a in [0, 1].
        textureless: Whether the albedo is replaced by white.
    """

    positions: Float[Tensor, "n 3"]
    ambient: float
    textureless: bool

    def repeat(self, rays: int) -> "Lights":
        """Return lights for each ray, from lights for each image of `rays` rays."""
        return Lights(self.positions.repeat_interleave(rays, 0), self.ambient, self.textureless)

    def __getitem__(self, rays: slice) -> "Lights":
        return Lights(self.positions[rays], self.ambient, self.textureless)

    def shade(
        self,
        albedo: Float[Tensor, "samples 3"],
        normals: Float[Tensor, "samples 3"],
        points: Float[Tensor, "samples 3"],
        ray: Int[Tensor, " samples"],
    ) -> Float[Tensor, "samples 3"]:
        """Return the colours of points on rays.

        Args:
            albedo: Albedo (M, 3) in [0, 1].
            normals: Unit normals (M, 3), or zero where there is none, which is lit by the ambient light alone.
            points: World positions (M, 3).
            ray: Index (M,) of the light of each point.

        Returns:
            The colours (M, 3) in [0, 1].
        """
        albedo = torch.ones_like(albedo) if self.textureless else albedo
        return lambertian(albedo, normals, points, self.positions[ray.long()], self.ambient)


def lambertian(
    albedo: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    points: Float[Tensor, "n 3"],
    light: Float[Tensor, "n 3"],
    ambient: float,
) -> Float[Tensor, "n 3"]:
    """Return the colours of points under a point light; see the equation above.

    Args:
        albedo: Albedo (N, 3) in [0, 1].
        normals: Unit normals (N, 3).
        points: World positions (N, 3).
        light: World positions (N, 3) of the light of each point.
        ambient: Ambient light l_a in [0, 1].

    Returns:
        The colours (N, 3) in [0, 1].
    """
    towards = F.normalize(light - points, dim=-1)
    diffuse = (normals * towards).sum(-1, keepdim=True).clamp(min=0)
    return albedo * ((1 - ambient) * diffuse + ambient)


def probability_at(config: ShadingConfig, progress: float) -> float:
    """Return the probability that a step is shaded.

    Args:
        config: The schedule.
        progress: Fraction of the run that is done, in [0, 1].

    Returns:
        0 before `config.start`. From there, it increases linearly to `config.probability` within `config.ramp`.
    """
    if progress < config.start:
        return 0.0
    return config.probability * (min(1.0, (progress - config.start) / config.ramp) if config.ramp > 0 else 1.0)


def draw_lights(config: ShadingConfig, cameras: Cameras, progress: float, generator: torch.Generator) -> Lights | None:
    """Draw the lights of a step.

    The direction of a light is that of its camera plus N(0, 1) in each coordinate, and its distance is U(0.8, 1.5).

    Args:
        config: Probabilities and schedule.
        cameras: The B cameras of the step.
        progress: Fraction of the run that is done, in [0, 1].
        generator: Source of the random numbers. None are drawn if `config.probability` is 0.

    Returns:
        A light for each camera, or None for a step that shows the albedo alone.
    """
    if config.probability == 0:
        return None
    shaded, textureless, soft = torch.rand(3, generator=generator).tolist()
    noise = torch.randn(len(cameras), 3, generator=generator)
    low, high = DISTANCE
    distance = low + (high - low) * torch.rand(len(cameras), 1, generator=generator)
    if shaded >= probability_at(config, progress):
        return None
    position = cameras.c2w[:, :3, 3]
    direction = F.normalize(F.normalize(position, dim=-1) + noise.to(position), dim=-1)
    ambient = soft if config.soft else config.ambient
    return Lights(direction * distance.to(position), ambient, textureless < config.textureless)
