"""Marching tetrahedra (Doi and Koide 1991), differentiable in the positions."""

from functools import cache

import torch
from torch import Tensor

from prolific_core.errors import ProlificError
from prolific_core.mesh.tetrahedra import crossed_tetrahedra
from prolific_core.render.mesh.raster import gather_rows


class EmptyMesh(ProlificError, ValueError):
    """There is no surface to go on with; the message says why and what to change."""


# Even permutations of a tetrahedron's corners that bring the inside ones first.
_ONE = {1: (0, 1, 2, 3), 2: (1, 0, 3, 2), 4: (2, 3, 0, 1), 8: (3, 2, 1, 0)}
_TWO = {3: (0, 1, 2, 3), 5: (0, 2, 3, 1), 9: (0, 3, 1, 2), 6: (1, 2, 0, 3), 10: (1, 3, 2, 0), 12: (2, 3, 0, 1)}


@cache
def _triangles(mask: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Triangles for an inside mask (bit i: corner i), as three (corner, corner) edges each.

    Derived for the tetrahedron 0, x, y, z, which has positive volume: with 0
    inside, the triangle on edges 0x, 0y, 0z has normal (1, 1, 1): outward. The
    others follow by even permutations, and by turning around for the complement.
    """
    if mask in _ONE or 15 - mask in _ONE:
        a, b, c, d = _ONE[mask if mask in _ONE else 15 - mask]
        found = (((a, b), (a, c), (a, d)),)
        return found if mask in _ONE else tuple(t[::-1] for t in found)
    if mask in _TWO:
        a, b, c, d = _TWO[mask]
        quad = ((a, c), (a, d), (b, d), (b, c))
        return (quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3])
    return ()


def marching_tetrahedra(points: Tensor, sdf: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """The surface sdf = 0, facing outward (away from positive values).

    points: ((R+1)^3, 3) grid points, moved or not (`tetrahedra.grid_points`);
    sdf: ((R+1)^3,), positive inside. Both may require gradients.
    Returns vertices (V, 3), where sdf interpolated along a grid edge is zero,
    and faces (F, 3) int64; both empty if nothing crosses. Closed, manifold and
    consistently oriented if no grid point of the outside is inside.
    """
    tetrahedra = crossed_tetrahedra(sdf.detach(), resolution)
    weights = torch.tensor([1, 2, 4, 8], device=sdf.device)
    mask = ((sdf.detach()[tetrahedra] > 0) * weights).sum(1)
    ends = []  # (n, 3 corners of the triangle, 2 ends of its grid edge)
    for value in range(1, 15):
        chosen = tetrahedra[mask == value]
        for triangle in _triangles(value):
            ends.append(chosen[:, torch.tensor(triangle, device=sdf.device).view(-1)].view(-1, 3, 2))
    ends = torch.cat(ends).view(-1, 2).sort(dim=1).values
    key, faces = (ends[:, 0] * len(sdf) + ends[:, 1]).unique(return_inverse=True)
    first, second = torch.div(key, len(sdf), rounding_mode="floor"), key % len(sdf)
    a, b = gather_rows(sdf, first), gather_rows(sdf, second)
    # One is positive and the other is not: the difference is never 0.
    share = (a / (a - b)).unsqueeze(-1)
    vertices = torch.lerp(gather_rows(points, first), gather_rows(points, second), share)
    return vertices, faces.view(-1, 3)
