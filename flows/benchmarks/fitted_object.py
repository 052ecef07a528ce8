"""Fit a radiance field to an object of the Toybox world, for `prolific bench render`.

The field is trained on random points. This takes only seconds, much less than training on images. The winding number of
the object's mesh determines whether a point is inside, and the nearest surface sample determines its colour. Like the
field of a finished run, the result has an opaque shape, empty space around it, and an occupancy grid that separates the
two.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prolific_core.config import FieldConfig
from prolific_core.mesh.inside import winding_reference
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.seeding import generator
from prolific_core.toybox.world import draw as world

PROMPT = "a red mug"
# Path lengths in world units: the density is trained to be opaque over THICKNESS inside the object and transparent
# over EMPTY outside it.
THICKNESS, EMPTY = 0.02, 0.3
# The grid of winding numbers covers [-EXTENT, EXTENT]^3 with GRID points per axis. Objects have radius 0.5.
EXTENT, GRID = 0.55, 48


class Truth:
    """Ground-truth occupancy and colour at any point, computed from the object's mesh."""

    def __init__(self, draw: torch.Generator):
        scene = world.sample(PROMPT, 1)[0]
        self.corners = torch.from_numpy(scene.vertices[scene.faces.astype(np.int64)])
        self.colours = torch.from_numpy(scene.colours)
        a, b, c = self.corners.unbind(1)
        self.areas = torch.linalg.cross(b - a, c - a).norm(dim=-1)
        # Winding numbers are expensive to compute, so they are computed once on a grid and interpolated.
        side = torch.linspace(-EXTENT, EXTENT, GRID)
        grid = winding_reference(torch.cartesian_prod(side, side, side), self.corners)
        self.grid = (grid > 0.5).float().view(1, 1, GRID, GRID, GRID).transpose(2, 4)  # grid_sample expects [z, y, x]
        self.anchors = self.surface(1000, draw)

    def surface(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample the surface uniformly and return the points (N, 3) and their colours (N, 3)."""
        face = torch.multinomial(self.areas, count, replacement=True, generator=draw)
        # Normalised exponential variables are barycentric coordinates of uniformly distributed points.
        weights = -torch.rand(count, 3, generator=draw).clamp(min=1e-6).log()
        weights = weights / weights.sum(1, keepdim=True)
        return (self.corners[face] * weights[..., None]).sum(1), self.colours[face]

    def sample(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample positions (N, 3), and return them with their occupancy (N,) and colours (N, 3).

        Half of the positions are near the surface.
        """
        near, _ = self.surface(count // 2, draw)
        near = near + 0.03 * torch.randn(near.shape, generator=draw)
        anywhere = torch.rand(count - len(near), 3, generator=draw) * 2 - 1
        anywhere[::2] *= EXTENT
        x = torch.cat([near, anywhere])
        inside = F.grid_sample(self.grid, x.view(1, 1, 1, -1, 3) / EXTENT, align_corners=True).view(-1) > 0.5
        points, colours = self.anchors
        return x, inside, colours[torch.cdist(x, points).argmin(1)]


def fitted(config: FieldConfig, steps: int, points: int = 2**14, seed: int = 0) -> RadianceField:
    """Fit a field with the given configuration to the object and return it.

    The same arguments give bitwise identical results on the same type of processor.
    """
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
        # The cross-entropy between alpha and `inside`, computed from the density to avoid cancellation.
        opaque = -torch.log(-torch.expm1(-(density * THICKNESS).clamp(1e-6, 20)))
        loss = torch.where(inside, opaque, density * EMPTY).mean() + F.mse_loss(shown, colour)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    for update in range(16):  # repeated because each update samples only one point per cell
        field.occupancy.update(field.density, generator(seed, "bench", "occupancy", update))
    return field
