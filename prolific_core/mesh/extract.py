"""Marching tetrahedra (Doi and Koide 1991), differentiable in the signed distances and the grid points."""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.errors import ProlificError
from prolific_core.mesh.tetrahedra import crossed_tetrahedra
from prolific_core.render.mesh.raster import gather_rows


class EmptyMesh(ProlificError, ValueError):
    """Error raised when a surface is empty or has invalid vertices; the message states the cause."""


# Even permutations of a tetrahedron's corners that put the inside corners first. The keys are masks of inside corners.
_ONE = {1: (0, 1, 2, 3), 2: (1, 0, 3, 2), 4: (2, 3, 0, 1), 8: (3, 2, 1, 0)}
_TWO = {3: (0, 1, 2, 3), 5: (0, 2, 3, 1), 9: (0, 3, 1, 2), 6: (1, 2, 0, 3), 10: (1, 3, 2, 0), 12: (2, 3, 0, 1)}


@cache
def _triangles(mask: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return the triangles for a mask in which bit i is set if corner i is inside.

    Each vertex of a triangle is given by the edge (corner, corner) of the tetrahedron on which the vertex lies.

    In a tetrahedron (0, x, y, z) of positive volume with only corner 0 inside, the triangle on the edges 0x, 0y and 0z
    has the outward normal (1, 1, 1). The other cases follow by even permutation of the corners and, for complementary
    masks, by reversing the triangle.
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


def marching_tetrahedra(
    points: Float[Tensor, "points 3"], sdf: Float[Tensor, " points"], resolution: int
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
    """Extract the surface on which the signed distance is zero.

    Faces are oriented outward, away from positive values. The mesh is closed, manifold and consistently oriented if all
    points on the boundary of the grid are outside the surface.

    Example:
        >>> from prolific_core.mesh.tetrahedra import grid_points
        >>> points = grid_points(16, extent=1.0)
        >>> vertices, faces = marching_tetrahedra(points, 0.5 - points.norm(dim=-1), 16)
        >>> bool((vertices.norm(dim=-1) - 0.5).abs().max() < 0.01)
        True

    Args:
        points: Grid points ((R+1)^3, 3), possibly displaced; see `tetrahedra.grid_points`.
        sdf: Signed distances ((R+1)^3,), positive inside.
        resolution: Number R of cubes along each side of the grid.

    Returns:
        Vertices (V, 3) and faces (F, 3), int64. Each vertex lies on a grid edge, at the point where the linearly
        interpolated signed distance is zero. Both tensors are empty if no edge crosses the surface. The vertices are
        differentiable in `points` and `sdf`.
    """
    tetrahedra = crossed_tetrahedra(sdf.detach(), resolution)
    weights = torch.tensor([1, 2, 4, 8], device=sdf.device)
    mask = ((sdf.detach()[tetrahedra] > 0) * weights).sum(1)
    ends = []  # Each entry (n, 3, 2) holds the end points of the grid edges on which the vertices of n triangles lie.
    for value in range(1, 15):
        chosen = tetrahedra[mask == value]
        for triangle in _triangles(value):
            ends.append(chosen[:, torch.tensor(triangle, device=sdf.device).view(-1)].view(-1, 3, 2))
    ends = torch.cat(ends).view(-1, 2).sort(dim=1).values
    key, faces = (ends[:, 0] * len(sdf) + ends[:, 1]).unique(return_inverse=True)
    first, second = torch.div(key, len(sdf), rounding_mode="floor"), key % len(sdf)
    a, b = gather_rows(sdf, first), gather_rows(sdf, second)
    # Exactly one of the two distances is positive, so their difference is never 0.
    fraction = (a / (a - b)).unsqueeze(-1)
    vertices = torch.lerp(gather_rows(points, first), gather_rows(points, second), fraction)
    return vertices, faces.view(-1, 3)
