"""Cameras on a sphere, their rays, and the words for view-dependent prompting.

The world is right-handed with z up. A camera at azimuth 0 is at +x and faces the front of the object. The azimuth
increases counter-clockwise when seen from above. Camera-to-world matrices use OpenGL axes (x right, y up, viewing
direction -z) and have determinant +1. Images are square and row 0 is at the top.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prolific_core.config import CameraConfig
from prolific_core.view_names import height_of, view_names, view_of


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras.

    Attributes:
        c2w: Camera-to-world matrices.
        fov: Vertical fields of view in radians.
        azimuth: Azimuths of the camera positions in radians.
        elevation: Elevations of the camera positions in radians.
    """

    c2w: Float[Tensor, "batch 4 4"]
    fov: Float[Tensor, " batch"]
    azimuth: Float[Tensor, " batch"]
    elevation: Float[Tensor, " batch"]
    # The result of `angles`, which `to` keeps, because reading it from a GPU would make the host wait.
    _angles: list[tuple[float, float]] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | Int[Tensor, " rows"] | Bool[Tensor, " batch"]) -> "Cameras":
        rows = slice(index, index + 1) if isinstance(index, int) else index
        return Cameras(self.c2w[rows], self.fov[rows], self.azimuth[rows], self.elevation[rows])

    def to(self, device: torch.device | str) -> "Cameras":
        """Move the cameras to a device.

        Args:
            device: The target device.

        Returns:
            Cameras whose tensors are on `device`.
        """
        tensors = (self.c2w, self.fov, self.azimuth, self.elevation)
        to_gpu = torch.device(device).type != "cpu"
        return Cameras(*(x.to(device, non_blocking=to_gpu) for x in tensors), _angles=self.angles())

    def angles(self) -> list[tuple[float, float]]:
        """Return the azimuth and elevation of each camera as Python floats.

        Returns:
            One pair (azimuth, elevation) per camera, in radians.
        """
        return self._angles or list(zip(self.azimuth.tolist(), self.elevation.tolist(), strict=True))

    def rays(
        self, resolution: int
    ) -> tuple[Float[Tensor, "batch height width 3"], Float[Tensor, "batch height width 3"]]:
        """Return the rays through the centres of the pixels.

        Args:
            resolution: Height and width of the image in pixels.

        Returns:
            Origins and unit directions of the rays, in world coordinates.
        """
        pixel = (torch.arange(resolution, device=self.c2w.device) + 0.5) / resolution * 2 - 1
        y, x = torch.meshgrid(-pixel, pixel, indexing="ij")
        half = torch.tan(self.fov / 2)[:, None, None]
        local = torch.stack([x * half, y * half, -torch.ones_like(x * half)], dim=-1)
        directions = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], local)
        directions = torch.nn.functional.normalize(directions, dim=-1)
        return self.c2w[:, None, None, :3, 3].expand_as(directions), directions


def look_at(position: Float[Tensor, "batch 3"], target: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 4 4"]:
    """Return camera-to-world matrices of cameras that look at target points, with z up.

    Args:
        position: Positions of the cameras.
        target: Points that the cameras look at.

    Returns:
        Camera-to-world matrices.
    """
    back = torch.nn.functional.normalize(position - target, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).to(position).expand_as(back)
    # If the viewing direction is vertical, use -x instead of z as the up direction.
    pole = back[:, 2:].abs() > 0.9999
    up = torch.where(pole, torch.tensor([-1.0, 0.0, 0.0]).to(position), up)
    right = torch.nn.functional.normalize(torch.cross(up, back, dim=-1), dim=-1)
    c2w = torch.eye(4).to(position).repeat(len(position), 1, 1)
    c2w[:, :3, :3] = torch.stack([right, torch.cross(back, right, dim=-1), back], dim=-1)
    c2w[:, :3, 3] = position
    return c2w


def from_angles(
    azimuth: Float[Tensor, " batch"],
    elevation: Float[Tensor, " batch"],
    distance: Float[Tensor, " batch"],
    fov: Float[Tensor, " batch"],
) -> Cameras:
    """Return cameras that look at the origin.

    Args:
        azimuth: Azimuths in radians.
        elevation: Elevations in radians.
        distance: Distances from the origin in world units.
        fov: Vertical fields of view in radians.

    Returns:
        One camera per element of the arguments.
    """
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
    """Return cameras evenly spaced on a circle around the object, starting in front of it.

    Args:
        views: Number of cameras.
        elevation: Elevation in degrees.
        distance: Distance from the origin in world units.
        fov: Vertical field of view in degrees.

    Returns:
        The cameras in order of azimuth.
    """
    azimuth = torch.arange(views) * (2 * math.pi / views)
    full = torch.ones(views)
    return from_angles(azimuth, full * math.radians(elevation), full * distance, full * math.radians(fov))


def cameras_in_all_directions(step: float = 5.0) -> Cameras:
    """Return cameras around the object in all directions, at distance 1.

    Args:
        step: Difference between neighbouring azimuths and elevations in degrees.

    Returns:
        The cameras, in order of azimuth.
    """
    azimuth = torch.arange(-180, 180, step) + step / 2
    elevation = torch.arange(-90, 90, step) + step / 2
    pairs = torch.cartesian_prod(azimuth, elevation).deg2rad()
    ones = torch.ones(len(pairs))
    return from_angles(pairs[:, 0], pairs[:, 1], ones, ones)


def around(views: int, *, fov: float) -> Cameras:
    """Return evenly spaced cameras that look outwards from the origin, ordered clockwise as seen from above.

    Each camera is 0.001 world units away from the origin and looks through it, so that the azimuth of the camera
    position is defined.

    Args:
        views: Number of cameras.
        fov: Vertical field of view in degrees.

    Returns:
        The cameras.
    """
    return orbit(views, elevation=0, distance=1e-3, fov=fov)[torch.arange(views).neg() % views]


def panorama(height: int, width: int) -> tuple[Float[Tensor, "1 height width 3"], Float[Tensor, "1 height width 3"]]:
    """Return the rays of a cylindrical 360-degree panorama seen from the origin.

    The direction +x maps to the centre of the image, and +y to the left of the centre. Pixels are square at the
    horizon.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Origins and unit directions of the rays, in world coordinates.
    """
    azimuth = math.pi - (torch.arange(width) + 0.5) * (2 * math.pi / width)
    rise = (height / 2 - 0.5 - torch.arange(height)) * (2 * math.pi / width)
    z, a = torch.meshgrid(rise, azimuth, indexing="ij")
    directions = torch.nn.functional.normalize(torch.stack([a.cos(), a.sin(), z], dim=-1), dim=-1)[None]
    return torch.zeros_like(directions), directions


def sample(views: int, config: CameraConfig, generator: torch.Generator | None = None) -> Cameras:
    """Sample random training cameras.

    With probability `config.uniform_probability`, a camera position is uniform on the upper hemisphere. Otherwise, its
    elevation is uniform in `config.elevation` (ProlificDreamer, arXiv 2305.16213, appendix). With `config.orbit`, the
    first camera is drawn in this way, and the others are evenly spaced on its circle around the object.

    Args:
        views: Number of cameras.
        config: Ranges of the distances and angles.
        generator: Source of the random numbers, on the CPU. If None, torch's global generator is used.

    Returns:
        The cameras, on the CPU.
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
    if config.orbit:
        around = azimuth[:1] + torch.arange(views) * (2 * math.pi / views)
        azimuth = torch.remainder(around + math.pi, 2 * math.pi) - math.pi
        elevation, distance, fov = (angle[:1].expand(views) for angle in (elevation, distance, fov))
    return from_angles(azimuth, elevation, distance, fov)


def view_prompts(cameras: Cameras) -> list[str]:
    """Return the words that ProlificDreamer (arXiv 2305.16213) appends to the prompt for each view.

    Views from elevations above 60 degrees are overhead views. All others are front views within 30 degrees of the
    front, back views within 30 degrees of the back, and side views in between.

    Args:
        cameras: The cameras.

    Returns:
        One of "front view", "side view", "back view" and "overhead view" per camera.
    """
    return [f"{view_of(*angles)} view" for angles in cameras.angles()]


def precise_view_prompts(cameras: Cameras) -> list[str]:
    """Return words for each view that name the side, also between the front and the side, and the camera's height.

    Args:
        cameras: The cameras.

    Returns:
        Words such as "front left view, seen from a low angle", one per camera.
    """
    words = []
    for azimuth, elevation in cameras.angles():
        view = view_names(view_of(azimuth, elevation), azimuth)[-1]
        words.append(f"{view} view, seen from a {height_of(elevation)} angle")
    return words
