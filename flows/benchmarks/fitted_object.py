"""A radiance field fitted in seconds to a true thing of the Toybox's world: what `prolific bench render` renders.

The thing's mesh says at every point whether it is inside (winding number) and what colour is near (the
nearest surface sample's). Training on those two is a lot quicker than on pictures, and ends in what a
finished run has: an opaque shape, empty space around it, an occupancy grid that knows which is which.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prolific_core.config import FieldConfig
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.seeding import generator
from prolific_core.toybox.world import draw as world

PROMPT = "a red mug"
# World units through which the trained density is opaque inside, and through which it is clear outside.
THICKNESS, EMPTY = 0.02, 0.3
EXTENT, GRID = 0.55, 48  # half side and points a side of the grid of winding numbers: things have radius 0.5


def winding(points: Tensor, corners: Tensor, chunk: int = 2_000_000) -> Tensor:
    """How often the triangles (F, 3, 3) wind around points (N, 3): 0 outside, 1 or more inside.

    Sum of signed solid angles over 4 pi (Van Oosterom and Strackee 1983, eq. 8).
    """
    total = []
    for piece in points.split(max(1, chunk // len(corners))):
        a, b, c = (corners[None] - piece[:, None, None]).unbind(2)
        la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        edges = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        total.append(torch.atan2(volume, edges).sum(1) / (2 * math.pi))
    return torch.cat(total)


class Truth:
    """The thing's mesh as an oracle: inside or not, and the colour nearby, at any number of points."""

    def __init__(self, draw: torch.Generator):
        scene = world.sample(PROMPT, 1)[0]
        self.corners = torch.from_numpy(scene.vertices[scene.faces.astype(np.int64)])
        self.colours = torch.from_numpy(scene.colours)
        a, b, c = self.corners.unbind(1)
        self.areas = torch.linalg.cross(b - a, c - a).norm(dim=-1)
        # Winding numbers are slow: asked once, on a grid over [-EXTENT, EXTENT]^3, and read between its points.
        side = torch.linspace(-EXTENT, EXTENT, GRID)
        grid = winding(torch.cartesian_prod(side, side, side), self.corners)
        self.grid = (grid > 0.5).float().view(1, 1, GRID, GRID, GRID).transpose(2, 4)  # [z, y, x], as grid_sample reads
        self.anchors = self.surface(1000, draw)

    def surface(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (N, 3) uniform on the surface, and their colours (N, 3)."""
        face = torch.multinomial(self.areas, count, replacement=True, generator=draw)
        weights = (
            -torch.rand(count, 3, generator=draw).clamp(min=1e-6).log()
        )  # uniform on the triangle, once normalised
        weights = weights / weights.sum(1, keepdim=True)
        return (self.corners[face] * weights[..., None]).sum(1), self.colours[face]

    def sample(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (N, 3), inside (N,) bool, colours (N, 3): half near the surface, half anywhere in the box."""
        near, _ = self.surface(count // 2, draw)
        near = near + 0.03 * torch.randn(near.shape, generator=draw)
        anywhere = torch.rand(count - len(near), 3, generator=draw) * 2 - 1
        anywhere[::2] *= EXTENT
        x = torch.cat([near, anywhere])
        inside = F.grid_sample(self.grid, x.view(1, 1, 1, -1, 3) / EXTENT, align_corners=True).view(-1) > 0.5
        points, colours = self.anchors
        return x, inside, colours[torch.cdist(x, points).argmin(1)]


def fitted(config: FieldConfig, steps: int, points: int = 2**14, seed: int = 0) -> RadianceField:
    """A field of the given shape, fitted to the thing; the same bytes for the same arguments."""
    field = RadianceField(config, generator(seed, "bench", "field"))
    truth = Truth(generator(seed, "bench", "truth"))
    groups = field.parameter_groups({"grid": 1e-2, "networks": 3e-3, "background": 0.0})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    rates = [group["lr"] for group in groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * (1 - step / steps)
        x, inside, colour = truth.sample(points, generator(seed, "bench", step))
        density, shown = field(x)
        # Minus the logarithms of alpha and of 1 - alpha: the cross entropy with `inside`, without cancellation.
        opaque = -torch.log(-torch.expm1(-(density * THICKNESS).clamp(1e-6, 20)))
        loss = torch.where(inside, opaque, density * EMPTY).mean() + F.mse_loss(shown, colour)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    for update in range(16):  # another random point of each cell every time: thin walls are found
        field.occupancy.update(field.density, generator(seed, "bench", "occupancy", update))
    return field
