"""Comparison of the shape of a generated object with the shapes of true objects of its prompt.

True objects of a prompt differ in their proportions, and a generated object may have another size and may face another
way. It is therefore compared with many true objects, after moving, scaling and turning it about the vertical axis.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prolific_core.mesh.compare import Solid, chamfer_distance, jittered_grid
from prolific_core.mesh.extract import EmptyMesh
from prolific_core.seeding import generator

OBJECTS = 64  # true objects
YAWS = 36  # rotations about the vertical axis
#: The occupancy is compared in [-EXTENT, EXTENT]^3, in units of the object's radius of gyration.
EXTENT = 2.5
CELLS = 48  # cells along each side of that cube
SURFACE_POINTS = 4000


@dataclass(frozen=True)
class Shape:
    """Solid in its own coordinates: its centroid is 0, and its radius of gyration is 1.

    The radius of gyration is the root mean square of the distance from the centroid.
    """

    solid: Solid

    @classmethod
    def of(cls, solid: Solid) -> "Shape":
        """Move and scale a solid.

        Raises:
            EmptyMesh: The solid contains fewer than two of the points at which it is tested.
        """
        low, high = solid.bounds()
        points = low + _random_points() * (high - low)
        inside = points[solid.contains(points)]
        if len(inside) < 2:  # a single point has no radius of gyration
            raise EmptyMesh("the mesh encloses no volume")
        centre = inside.mean(0)
        radius = (inside - centre).square().sum(1).mean().sqrt()
        return cls(Solid((solid.vertices - centre) / radius, solid.faces))

    def turned(self, yaw: float) -> Solid:
        """Return the solid after a rotation about z by `yaw` radians."""
        return Solid(self.solid.vertices @ _rotation(yaw).T, self.solid.faces)

    def occupied(self) -> Bool[Tensor, " points"]:
        """Return which of the points at which shapes are compared are inside."""
        return self.solid.contains(_points())

    def occupied_when_turned(self) -> Bool[Tensor, "yaws points"]:
        """Return `occupied` after each of the rotations."""
        return torch.stack([self.solid.contains(_points() @ _rotation(yaw)) for yaw in _yaws()])


def shape_metrics(text: str, solid: Solid, objects: int = OBJECTS) -> dict[str, float]:
    """Compare a closed mesh with the most similar of the true objects of a prompt.

    Args:
        text: Prompt that describes one object of the Toybox world.
        solid: The mesh, with z up.
        objects: Number of true objects.

    Returns:
        `iou`, the largest volume IoU with a true object after the alignment, in [0, 1], and `chamfer`, the Chamfer
        distance to that object as a fraction of its longest side. A mesh that encloses no volume has only `iou`, which
        is 0. The dict is empty if the prompt cannot be parsed.
    """
    truth = _true_shapes(text, objects)
    if not truth:
        return {}
    try:
        made = Shape.of(solid)
    except EmptyMesh:
        return {"iou": 0.0}
    iou = intersection_over_union(made.occupied_when_turned(), torch.stack([occupied for _, occupied in truth]))
    yaw, best = divmod(int(iou.argmax()), len(truth))
    true = truth[best][0].solid
    surfaces = [
        one.surface(SURFACE_POINTS, generator(0, "shape", name))
        for name, one in (("made", made.turned(_yaws()[yaw])), ("true", true))
    ]
    return {"iou": float(iou.max()), "chamfer": chamfer_distance(*surfaces) / true.size()}


def intersection_over_union(a: Bool[Tensor, "n points"], b: Bool[Tensor, "m points"]) -> Float[Tensor, "n m"]:
    """Compute the intersection over union of each pair of sets of points; 0 if both are empty."""
    both = a.float() @ b.float().T
    either = a.sum(1)[:, None] + b.sum(1)[None] - both
    return both / either.clamp(min=1)


@cache
def _true_shapes(text: str, count: int) -> list[tuple[Shape, Tensor]]:
    from prolific_core.toybox.world import draw as world

    if world.parse(text) is None:
        return []
    scenes = (scene.trimesh() for scene in world.sample(text, count))
    shapes = [Shape.of(Solid(torch.from_numpy(m.vertices).float(), torch.from_numpy(m.faces).long())) for m in scenes]
    return [(shape, shape.occupied()) for shape in shapes]


@cache
def _random_points() -> Float[Tensor, "points 3"]:
    """Return one random point in each cell of the unit cube."""
    return jittered_grid(CELLS, generator(0, "shape", "points"))


@cache
def _points() -> Float[Tensor, "points 3"]:
    return EXTENT * (2 * _random_points() - 1)


def _yaws() -> list[float]:
    return [2 * math.pi * k / YAWS for k in range(YAWS)]


def _rotation(yaw: float) -> Float[Tensor, "3 3"]:
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
