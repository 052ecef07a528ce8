"""A grid of cubes, each cut into six tetrahedra, and the surface inside it.

The cut is Kuhn's: the six tetrahedra are the monotone walks along the cube's
edges from corner 000 to corner 111. Every cube is cut the same way and faces
of neighbours match, so the surface has no cracks. Nothing but the signed
distances is stored: only cubes that the surface crosses are ever cut, which is
what lets a resolution of 128 (12.6 million tetrahedra) fit.

Signed distances are positive inside, as density minus threshold is.
"""

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

#: Steps (dx, dy, dz) along the grid's seven kinds of edge.
STEPS = tuple((x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1) if (x, y, z) != (0, 0, 0))


def grid_points(resolution: int, extent: float, device="cpu") -> Tensor:
    """Corners of resolution^3 cubes over [-extent, extent]^3: ((R+1)^3, 3), z fastest."""
    line = torch.linspace(-extent, extent, resolution + 1, device=device)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(-1, 3)


def boundary_mask(resolution: int, device="cpu") -> Tensor:
    """Which grid points lie on the outside of the grid: ((R+1)^3,) bool."""
    mask = torch.ones((resolution + 1,) * 3, dtype=torch.bool, device=device)
    mask[1:-1, 1:-1, 1:-1] = False
    return mask.view(-1)


@cache
def _walks() -> tuple[tuple[int, ...], ...]:
    """Corners (as 4 dx + 2 dy + dz) of the six tetrahedra, each with positive volume."""
    walks = []
    for axes in permutations((4, 2, 1)):
        a, b, _ = axes
        walk = [0, a, a + b, 7]
        # Odd permutations of the axes turn the tetrahedron inside out.
        if axes in ((2, 4, 1), (4, 1, 2), (1, 2, 4)):
            walk[1], walk[2] = walk[2], walk[1]
        walks.append(tuple(walk))
    return tuple(walks)


def crossed_tetrahedra(sdf: Tensor, resolution: int) -> Tensor:
    """Tetrahedra with corners on both sides of the surface: (T, 4) int64 grid points.

    sdf: ((R+1)^3,), inside where positive. Order: by cube, then by walk.
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


def sdf_sign_loss(sdf: Tensor, resolution: int) -> Tensor:
    """Discourages sign changes, and so floaters and holes (nvdiffrec, Munkberg et al. 2022, eq. 2).

    For each grid edge (a, b) whose ends have different signs,
    BCE(sigmoid(s_a), inside_b) + BCE(sigmoid(s_b), inside_a); the mean over
    those edges, 0 if there is none. sdf: ((R+1)^3,). Scalar, >= 0.
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
