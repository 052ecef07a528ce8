"""Occupancy grid: which cells of the box are worth sampling (Instant-NGP, arXiv 2201.05989, appendix E.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class OccupancyGrid(nn.Module):
    """A decaying maximum of the density in each cell of [-bound, bound]^3.

    A cell is occupied when one step through it would be opaque by more than
    `threshold`: 1 - exp(-density * step) > threshold. Where the whole field
    is thinner than that, the mean takes the threshold's place, so that there
    is always something to sample and learn from.

    resolution: cells a side. decay: what remains of a cell's density at each
    update that finds less. every: training steps of this field between updates.
    The grid starts all occupied, and the first update replaces it: a field
    renders correctly before it was ever updated. The buffers are in
    state_dict, so that a resumed run skips what the first run skipped.
    """

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
        self.register_buffer("density", torch.full(shape, -1.0))  # [x, y, z]; -1: never updated
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))

        self.register_buffer("visits", torch.zeros((), dtype=torch.int64))

    def points(self, generator: torch.Generator | None = None) -> Tensor:
        """One point (G^3, 3) in each cell: uniform by the generator, else the centre."""
        side = torch.arange(self.resolution, dtype=torch.float32)
        corner = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1).reshape(-1, 3)
        jitter = 0.5 if generator is None else torch.rand(corner.shape, generator=generator)
        points = (corner + jitter) * (2 * self.bound / self.resolution) - self.bound
        return points.to(self.density.device)

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], generator: torch.Generator | None = None) -> None:
        """Ask `density` (N, 3) -> (N,) at one point of each cell and remember."""
        found = torch.cat([density(chunk) for chunk in self.points(generator).split(2**18)])
        found = found.reshape(self.density.shape).to(self.density)
        # A never updated cell holds -1, which is below any density.
        self.density.copy_(torch.maximum(self.density * self.decay, found))
        opacity = 1 - torch.exp(-self.density * self.step)
        self.occupied.copy_(opacity > opacity.mean().clamp(max=self.threshold))

    def due(self) -> bool:
        """Counts one training step; whether it begins with an update (the 1st, the 17th, ...).

        Steps are counted here and not by the run, since of several particles
        only one is trained at each step of the run.
        """
        self.visits += 1
        return int(self.visits - 1) % self.every == 0

    def share(self) -> float:
        """Share of the cells that are occupied, in [0, 1]."""
        return self.occupied.float().mean().item()
