"""Tetrahedral grid of signed distances, in which each cube is divided into six tetrahedra.

The cubes are divided by Kuhn's scheme: the six tetrahedra are the monotone paths along the cube's edges from corner 000
to corner 111. The faces of neighbouring cubes match, so the surface has no cracks. Only the signed distances are
stored, and only the cubes that the surface crosses are divided, so a resolution of 128 (12.6 million tetrahedra) fits
into memory.

Signed distances are positive inside the surface, as is a density minus its threshold.
"""

from functools import cache
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: Offsets (dx, dy, dz) along the seven kinds of edges in the grid.
STEPS = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1) if (x, y, z) != (0, 0, 0))


def grid_points(resolution: int, extent: float, device: str | torch.device = "cpu") -> Float[Tensor, "points 3"]:
    """Return the corners of a grid of cubes over [-extent, extent]^3.

    Args:
        resolution: Number R of cubes along each side.
        extent: Half of the side length of the grid, in world units.
        device: Device of the result.

    Returns:
        World points ((R+1)^3, 3), with z varying fastest.
    """
    line = torch.linspace(-extent, extent, resolution + 1, device=device)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(-1, 3)


def boundary_mask(resolution: int, device: str | torch.device = "cpu") -> Bool[Tensor, " points"]:
    """Return whether each grid point ((R+1)^3,) lies on the boundary of the grid."""
    mask = torch.ones((resolution + 1,) * 3, dtype=torch.bool, device=device)
    mask[1:-1, 1:-1, 1:-1] = False
    return mask.view(-1)


@cache
def _walks() -> tuple[tuple[int, ...], ...]:
    """Return the corners of the six tetrahedra of a cube, each corner as 4 dx + 2 dy + dz.

    The corners are ordered so that every tetrahedron has a positive volume.
    """
    walks = []
    for axes in permutations((4, 2, 1)):
        a, b, _ = axes
        walk = [0, a, a + b, 7]
        # An odd permutation of the axes makes the volume negative.
        if axes in ((2, 4, 1), (4, 1, 2), (1, 2, 4)):
            walk[1], walk[2] = walk[2], walk[1]
        walks.append(tuple(walk))
    return tuple(walks)


def crossed_tetrahedra(sdf: Float[Tensor, " points"], resolution: int) -> Int[Tensor, "tetrahedra 4"]:
    """Find the tetrahedra that have corners on both sides of the surface.

    Args:
        sdf: Signed distances ((R+1)^3,), positive inside.
        resolution: Number R of cubes along each side.

    Returns:
        Indices of grid points (T, 4), int64, ordered by cube and then by path.
    """
    n = resolution + 1
    inside = (sdf > 0).view(n, n, n)
    count = torch.zeros((resolution,) * 3, dtype=torch.uint8, device=sdf.device)
    for x, y, z in ((0, 0, 0), *STEPS):
        count += inside[x : x + resolution, y : y + resolution, z : z + resolution]
    cube = ((count > 0) & (count < 8)).nonzero()
    base = (cube[:, 0] * n + cube[:, 1]) * n + cube[:, 2]
    corner = [((c >> 2) * n + (c >> 1 & 1)) * n + (c & 1) for c in range(8)]
    offsets = torch.tensor([[corner[c] for c in walk] for walk in _walks()], device=sdf.device)
    tetrahedra = (base[:, None, None] + offsets).view(-1, 4)
    occupied = inside.reshape(-1)[tetrahedra].sum(1)
    return tetrahedra[(occupied > 0) & (occupied < 4)]


def sdf_sign_loss(sdf: Float[Tensor, " points"], resolution: int) -> Float[Tensor, ""]:
    """Compute a loss that suppresses floaters and holes by penalising sign changes (nvdiffrec).

    The loss is the mean of BCE(sigmoid(s_a), inside_b) + BCE(sigmoid(s_b), inside_a) over the grid edges (a, b) whose
    ends have different signs (Munkberg et al. 2022, eq. 2).

    Args:
        sdf: Signed distances ((R+1)^3,), positive inside.
        resolution: Number R of cubes along each side.

    Returns:
        A nonnegative scalar, which is 0 if the signs are all equal.
    """
    n = resolution + 1
    grid = sdf.view(n, n, n)
    total, count = sdf.new_zeros(()), 0
    for x, y, z in STEPS:
        a = grid[: n - x, : n - y, : n - z]
        b = grid[x:, y:, z:]
        crossing = (a > 0) != (b > 0)
        a, b = a[crossing], b[crossing]
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        total = total + bce(a, (b > 0).to(a), reduction="sum") + bce(b, (a > 0).to(b), reduction="sum")
        count += a.numel()
    return total / max(count, 1)
