"""Light for physically based shading: directional lights, and an environment in spherical harmonics of degree 1."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Lighting:
    """Distant light, in linear RGB.

    The radiance of the environment from direction w is `sky[0] + sky[1:].T w`.

    Attributes:
        directions: Unit directions (L, 3) towards the directional lights.
        irradiances: Irradiance (L, 3) of each light on a surface that faces it.
        sky: Radiance (4, 3) of the environment: the mean, and its slopes along x, y and z.
    """

    directions: Float[Tensor, "lights 3"]
    irradiances: Float[Tensor, "lights 3"]
    sky: Float[Tensor, "4 3"]

    def to(self, like: Tensor) -> "Lighting":
        """Return the same light with the device and the data type of a tensor."""
        return Lighting(self.directions.to(like), self.irradiances.to(like), self.sky.to(like))

    def diffuse(self, normal: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return the irradiance (N, 3) of the environment on surfaces with unit normals (N, 3).

        A cosine lobe scales degree 0 by pi and degree 1 by 2 pi / 3 (Ramamoorthi and Hanrahan, "An efficient
        representation for irradiance environment maps", 2001).
        """
        return math.pi * self.sky[0] + 2 * math.pi / 3 * normal @ self.sky[1:]

    def blurred(
        self, direction: Float[Tensor, "points 3"], roughness: Float[Tensor, "points 1"]
    ) -> Float[Tensor, "points 3"]:
        """Return the mean radiance (N, 3) that a microfacet lobe sees around unit directions (N, 3).

        The lobe scales degree l by about exp(-(alpha l)^2), with alpha = roughness^2 (Ramamoorthi and Hanrahan, "A
        signal-processing framework for inverse rendering", 2001).
        """
        return self.sky[0] + torch.exp(-(roughness**4)) * (direction @ self.sky[1:])


def studio(generator: torch.Generator | None = None) -> Lighting:
    """Return a key light from above the front, weak lights from both sides, and a sky that is brighter than the ground.

    A white, rough surface that faces the key light is about as bright as white; one in the shadow has half its sRGB
    value, as in the images of the packaged prior.

    Args:
        generator: Source of the key light's azimuth, up to 60 degrees from the front. None places it at 30 degrees.
    """
    turn = 0.5 if generator is None else 2 * float(torch.rand((), generator=generator)) - 1
    azimuth = math.radians(60) * turn
    lights = [
        (azimuth, math.radians(65), 0.62),
        (azimuth + math.radians(100), math.radians(25), 0.12),
        (azimuth - math.radians(100), math.radians(25), 0.12),
    ]
    directions = [(math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)) for a, e, _ in lights]
    return Lighting(
        torch.tensor(directions),
        torch.tensor([[math.pi * weight] * 3 for _, _, weight in lights]),
        torch.tensor([[0.26] * 3, [0.0] * 3, [0.0] * 3, [0.08] * 3]),
    )
