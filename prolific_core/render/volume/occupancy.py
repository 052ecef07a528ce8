"""Occupancy grid of the cells of the volume that are worth sampling (Instant-NGP, arXiv 2201.05989, appendix E.2)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core import seeding


class OccupancyGrid(nn.Module):
    """Decaying maximum of the density in each cell of the box [-bound, bound]^3.

    A cell is occupied if one step through it is more opaque than the threshold: 1 - exp(-density * step) > threshold.
    If the mean opacity of the cells is below the threshold, the mean is used instead, so that some cells are always
    sampled.

    All cells are occupied until the first update, so a field is rendered correctly before its grid has been updated.
    The buffers are part of `state_dict`, so that a resumed run skips the same cells.

    Example:
        >>> grid = OccupancyGrid(resolution=8, step=0.1)
        >>> grid.update(lambda x: 5.0 * (x[:, 0] > 0))
        >>> grid.occupied.float().mean()
        tensor(0.5000)

    Args:
        resolution: Number of cells along each side.
        bound: Half the box's side, in world units.
        step: Length of a step along a ray, in world units.
        threshold: Opacity of one step above which a cell is occupied.
        decay: Factor applied to a cell's density at each update unless the new density is larger.
        every: Number of training steps between updates.

    Attributes:
        density: Density (resolution, resolution, resolution) per world unit, indexed [x, y, z]; -1 before the first
            update.
        occupied: Mask of the occupied cells, in the same shape.
        visits: Number of training steps counted by `due`; always on the CPU, because the host reads it in every step.
    """

    density: Tensor
    occupied: Tensor
    visits: Tensor

    def __init__(
        self,
        resolution: int = 32,
        bound: float = 1.0,
        step: float = 0.02,
        threshold: float = 0.01,
        decay: float = 0.95,
        every: int = 16,
    ):
        super().__init__()
        self.resolution, self.bound, self.step = resolution, bound, step
        self.threshold, self.decay, self.every = threshold, decay, every
        shape = (resolution, resolution, resolution)
        self.register_buffer("density", torch.full(shape, -1.0))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("visits", torch.zeros((), dtype=torch.int64))

    def _apply(self, fn, recurse=True):
        visits = self.visits
        super()._apply(fn, recurse)
        self.visits = visits
        return self

    def points(self, generator: torch.Generator | None = None) -> Float[Tensor, "cells 3"]:
        """Return one point in each cell.

        Args:
            generator: Source of uniformly distributed points; if None, the cells' centres are returned.

        Returns:
            World points (resolution^3, 3), in the order of the flattened grid.
        """
        device = self.density.device
        side = torch.arange(self.resolution, dtype=torch.float32, device=device)
        corner = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1).reshape(-1, 3)
        jitter = 0.5
        if generator is not None:
            jitter = torch.rand(corner.shape, generator=seeding.on_device(generator, device), device=device)
        return (corner + jitter) * (2 * self.bound / self.resolution) - self.bound

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], generator: torch.Generator | None = None) -> None:
        """Evaluate the density at one point of each cell and update the grid.

        Args:
            density: Function from world points (N, 3) to densities (N,) per world unit.
            generator: Source of the points; see `points`.
        """
        found = torch.cat([density(chunk) for chunk in self.points(generator).split(2**18)])
        found = found.reshape(self.density.shape).to(self.density)
        # The initial value -1 is below any density.
        self.density.copy_(torch.maximum(self.density * self.decay, found))
        opacity = 1 - torch.exp(-self.density * self.step)
        self.occupied.copy_(opacity > opacity.mean().clamp(max=self.threshold))

    def due(self) -> bool:
        """Count one training step and return whether an update is due, by default at steps 1, 17, 33 and so on.

        Each grid counts its own steps, because each iteration of the training loop trains only one of the particles.
        """
        self.visits += 1
        return int(self.visits - 1) % self.every == 0
