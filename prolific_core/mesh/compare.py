"""Comparison of the shapes of two closed meshes: volume IoU and Chamfer distance."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.mesh.inside import is_inside
from prolific_core.render.mesh.raster import face_normals

#: Distance by which a surface point is moved outwards to test whether other parts of the mesh cover it, as a fraction
#: of the mesh's size.
OFFSET = 1e-4


@dataclass(frozen=True)
class Solid:
    """Closed triangle mesh, whose parts may overlap.

    Attributes:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3), F > 0, counter-clockwise as seen from outside.
    """

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]

    def bounds(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """Return the lowest and the highest coordinates (3,) of the faces' corners."""
        used = self.vertices[self.faces.reshape(-1)]
        return used.amin(0), used.amax(0)

    def size(self) -> float:
        """Return the longest side of the bounding box."""
        low, high = self.bounds()
        return float((high - low).max())

    def contains(self, points: Float[Tensor, "points 3"]) -> Tensor:
        """Return whether points (N, 3) are inside."""
        return is_inside(points, self.vertices, self.faces)

    def surface(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "points 3"]:
        """Sample the outer surface uniformly.

        Faces inside other parts, such as those between a house and its roof, are not part of the outer surface.

        Args:
            count: Number of samples on all faces.
            generator: Source of the random numbers.

        Returns:
            Points (N, 3), of which there are at most `count`.
        """
        normals = face_normals(self.vertices.float(), self.faces)
        areas = normals.norm(dim=-1)
        face = torch.multinomial(areas, count, replacement=True, generator=generator)
        # Normalised exponential variables are barycentric coordinates of uniformly distributed points.
        weights = -torch.rand(count, 3, generator=generator).clamp(min=1e-6).log()
        weights = weights / weights.sum(1, keepdim=True)
        points = (self.vertices[self.faces[face]] * weights[..., None]).sum(1)
        outwards = normals[face] / areas[face, None].clamp(min=1e-12)
        return points[~self.contains(points + OFFSET * self.size() * outwards)]


def jittered_grid(resolution: int, generator: torch.Generator | None = None) -> Float[Tensor, "points 3"]:
    """Return one random point in each cell of a grid over the unit cube.

    Args:
        resolution: Cells along each side of the grid.
        generator: Source of the random numbers.

    Returns:
        Points (resolution^3, 3) in [0, 1).
    """
    line = torch.arange(resolution)
    cells = torch.cartesian_prod(line, line, line)
    return (cells + torch.rand(cells.shape, generator=generator)) / resolution


def volume_iou(a: Solid, b: Solid, resolution: int = 64, generator: torch.Generator | None = None) -> float:
    """Compute the intersection over union of two volumes.

    Both are tested at one random point in each cell of a grid over their common bounding box.

    Args:
        a: The first solid.
        b: The second solid.
        resolution: Cells along each side of the grid.
        generator: Source of the random numbers.

    Returns:
        A number in [0, 1]; 0 if both are empty.
    """
    low = torch.minimum(a.bounds()[0], b.bounds()[0])
    high = torch.maximum(a.bounds()[1], b.bounds()[1])
    points = low + jittered_grid(resolution, generator) * (high - low)
    in_a, in_b = a.contains(points), b.contains(points)
    union = int((in_a | in_b).sum())
    return int((in_a & in_b).sum()) / union if union else 0.0


def chamfer_distance(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> float:
    """Compute the Chamfer distance between two sets of points.

    It is the mean of the distances from the points of one set to the nearest point of the other, averaged over both
    directions. Between two samples of one surface, it is about half the distance between neighbouring samples.

    Args:
        a: Points (N, 3), for example of `Solid.surface`.
        b: Points (M, 3).

    Returns:
        The distance in world units.
    """
    from scipy.spatial import KDTree

    first, second = a.double().numpy(), b.double().numpy()
    to_b, _ = KDTree(second).query(first)
    to_a, _ = KDTree(first).query(second)
    return float(np.mean(to_b) + np.mean(to_a)) / 2
