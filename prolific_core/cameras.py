"""Where we look from: cameras on a sphere, their rays, and what a prompt calls the view.

World: right-handed, z up. Azimuth 0 looks at the object's front from +x and grows
counter-clockwise seen from above. Camera-to-world matrices have OpenGL axes: x right, y up,
looking along -z, determinant +1. Images are square and row 0 is the top.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OVERHEAD = math.radians(60)  # the elevation above which a view is called overhead


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras.

    c2w (B, 4, 4); fov (B,) vertical field of view; azimuth, elevation (B,); all angles in radians.
    """

    c2w: Tensor
    fov: Tensor
    azimuth: Tensor
    elevation: Tensor

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index) -> "Cameras":
        index = slice(index, index + 1) if isinstance(index, int) else index
        return Cameras(self.c2w[index], self.fov[index], self.azimuth[index], self.elevation[index])

    def to(self, device) -> "Cameras":
        return Cameras(*(x.to(device) for x in (self.c2w, self.fov, self.azimuth, self.elevation)))

    def rays(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Origins and unit directions (B, H, W, 3) through the pixel centres."""
        pixel = (torch.arange(resolution, device=self.c2w.device) + 0.5) / resolution * 2 - 1
        y, x = torch.meshgrid(-pixel, pixel, indexing="ij")
        half = torch.tan(self.fov / 2)[:, None, None]
        local = torch.stack([x * half, y * half, -torch.ones_like(x * half)], dim=-1)
        directions = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], local)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        return self.c2w[:, None, None, :3, 3].expand_as(directions), directions


def look_at(position: Tensor, target: Tensor) -> Tensor:
    """Camera-to-world (B, 4, 4) at `position` (B, 3) looking at `target` (B, 3), z up."""
    back = torch.nn.functional.normalize(position - target, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).to(position).expand_as(back)
    # Straight up or down, "up" in the picture is away from the front instead.
    pole = back[:, 2:].abs() > 0.9999
    up = torch.where(pole, torch.tensor([-1.0, 0.0, 0.0]).to(position), up)
    right = torch.nn.functional.normalize(torch.cross(up, back, dim=-1), dim=-1)
    c2w = torch.eye(4).to(position).repeat(len(position), 1, 1)
    c2w[:, :3, :3] = torch.stack([right, torch.cross(back, right, dim=-1), back], dim=-1)
    c2w[:, :3, 3] = position
    return c2w


def from_angles(azimuth: Tensor, elevation: Tensor, distance: Tensor, fov: Tensor) -> Cameras:
    """Cameras that look at the origin. Angles (B,) in radians, distance (B,) in world units."""
    position = torch.stack(
        [
            elevation.cos() * azimuth.cos(),
            elevation.cos() * azimuth.sin(),
            elevation.sin(),
        ],
        dim=-1,
    )
    position = position * distance[:, None]
    return Cameras(look_at(position, torch.zeros_like(position)), fov, azimuth, elevation)


def orbit(views: int, *, elevation: float, distance: float, fov: float) -> Cameras:
    """Evenly spaced views around the object, the first from the front. Angles in degrees."""
    azimuth = torch.arange(views) * (2 * math.pi / views)
    full = torch.ones(views)
    return from_angles(azimuth, full * math.radians(elevation), full * distance, full * math.radians(fov))


def around(views: int, *, fov: float) -> Cameras:
    """Evenly spaced views from the origin outwards, each to the right of the one before. fov in degrees.

    Azimuth is, as everywhere, on which side of the origin the camera stands: here a hair's breadth.
    """
    return orbit(views, elevation=0, distance=1e-3, fov=fov)[torch.arange(views).neg() % views]


def panorama(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (1, H, W, 3) of a 360-degree strip from the origin, on a cylinder.

    What is before +x is in the middle; left is to the left; pixels are square at the horizon.
    """
    azimuth = math.pi - (torch.arange(width) + 0.5) * (2 * math.pi / width)
    rise = (height / 2 - 0.5 - torch.arange(height)) * (2 * math.pi / width)
    z, a = torch.meshgrid(rise, azimuth, indexing="ij")
    directions = torch.nn.functional.normalize(torch.stack([a.cos(), a.sin(), z], dim=-1), dim=-1)[None]
    return torch.zeros_like(directions), directions


def sample(views: int, config, generator: torch.Generator) -> Cameras:
    """Random training cameras by a `config.CameraConfig` (its ranges are in degrees).

    With probability `uniform_probability` a view is uniform on the upper hemisphere, else its
    elevation is uniform in the given range (the paper's mixture, arXiv 2305.16213 appendix).
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(views, generator=generator)

    azimuth = uniform(-math.pi, math.pi)
    elevation = uniform(*(math.radians(e) for e in config.elevation))
    on_hemisphere = torch.asin(torch.rand(views, generator=generator))
    choose = torch.rand(views, generator=generator) < config.uniform_probability
    elevation = torch.where(choose, on_hemisphere, elevation)
    distance = uniform(*config.distance)
    fov = uniform(*(math.radians(f) for f in config.fov))
    return from_angles(azimuth, elevation, distance, fov)


def view_prompts(cameras: Cameras) -> list[str]:
    """What the paper appends to a prompt: overhead above 60 degrees, front and back within 30, else side."""
    words = []
    for azimuth, elevation in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True):
        off_front = abs(math.remainder(azimuth, 2 * math.pi))
        if elevation > OVERHEAD:
            words.append("overhead view")
        elif off_front <= math.radians(30):
            words.append("front view")
        elif off_front >= math.radians(150):
            words.append("back view")
        else:
            words.append("side view")
    return words
