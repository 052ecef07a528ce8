"""Start of the geometry stage without a radiance field: an ellipsoid or a user's mesh file.

Fantasia3D (arXiv 2303.13873) starts from these.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool3d

from prolific_core.config import GeometryConfig
from prolific_core.errors import InputError
from prolific_core.mesh.inside import is_inside
from prolific_core.mesh.solid_file import RADIUS, read_solid, surface_distances
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.scenes.surface import TetrahedralSurface

#: Space between a shape and the box of a grid whose extent is not given, in world units.
MARGIN = 0.1

#: Distance in cells at which signed distances are clamped. No edge of the grid is longer than sqrt(3) cells, so the
#: clamping moves no vertex of the surface.
BAND = 2

#: Random offset of the points that are tested for being inside, in cells. Rays from the points themselves would meet
#: the edges of boxes exactly.
JITTER = 1e-3


def is_file(config: GeometryConfig) -> bool:
    """Return whether the stage starts from a mesh file."""
    return config.start not in ("field", "ellipsoid")


def check_start(config: GeometryConfig) -> None:
    """Check the start of the geometry stage before any work is done.

    Raises:
        InputError: The mesh file cannot be used, or the shape does not fit into the grid.
    """
    if config.start == "field":
        return
    reach = RADIUS if is_file(config) else max(config.ellipsoid)
    if is_file(config):
        read_solid(config.start, "geometry.start")
    if config.extent is not None and config.extent <= reach:
        what = "the mesh is scaled to that radius" if is_file(config) else "the longest axis of geometry.ellipsoid"
        raise InputError(f"geometry.extent must be larger than {reach:g} ({what}), got {config.extent:g}")


def start_surface(
    config: GeometryConfig, backend: str = "auto", device: str | torch.device = "cpu"
) -> TetrahedralSurface:
    """Return the surface of an ellipsoid or of a mesh file.

    Args:
        config: Parameters of the geometry stage, whose `start` is not `field`.
        backend: Visibility backend; see `render.mesh.raster.Visibility`.
        device: Device of the surface.

    Raises:
        InputError: The mesh file cannot be used, or no point of the grid is inside the shape.
    """
    resolution = config.grid_resolution
    if is_file(config):
        extent = config.extent or RADIUS + MARGIN
        sdf = mesh_distances(*read_solid(config.start, "geometry.start"), resolution, extent)
    else:
        extent = config.extent or max(config.ellipsoid) + MARGIN
        sdf = ellipsoid_distances(grid_points(resolution, extent), config.ellipsoid)
    surface = TetrahedralSurface(resolution, extent, backend, config).to(device)
    sdf = (sdf * resolution / (2 * extent * BAND)).clamp(-1, 1).to(device)
    sdf = torch.where(surface.boundary, -sdf.abs().clamp(min=1e-3), sdf)
    if not (sdf > 0).any():
        raise InputError("geometry.start: the shape is thinner than a cell; raise geometry.grid_resolution")
    with torch.no_grad():
        surface.sdf.copy_(sdf)
    return surface


def ellipsoid_distances(
    points: Float[Tensor, "points 3"], axes: tuple[float, float, float]
) -> Float[Tensor, " points"]:
    """Return approximate signed distances to an ellipsoid around the origin, positive inside.

    With k = |p / a| and g = |p / a^2| for the semi-axes a, the distance is k (1 - k) / g, which is exact for a ball and
    to first order at the surface.

    Args:
        points: World points (N, 3).
        axes: Semi-axes along x, y and z in world units.
    """
    size = torch.tensor(axes, dtype=points.dtype, device=points.device)
    scaled = (points / size).norm(dim=-1)
    slope = (points / size.square()).norm(dim=-1)
    return torch.where(slope > 1e-6, scaled * (1 - scaled) / slope.clamp(min=1e-6), size.min())


def mesh_distances(
    vertices: Float[np.ndarray, "vertices 3"], faces: np.ndarray, resolution: int, extent: float
) -> Float[Tensor, " points"]:
    """Return signed distances to a closed mesh at the points of a grid, positive inside.

    They are computed within about `BAND` cells of the surface. Elsewhere, the size of the box stands for them.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3), counter-clockwise as seen from outside.
        resolution: Number R of cubes per side.
        extent: Half the side of the grid's box in world units.

    Returns:
        Distances ((R+1)^3,) in world units; see `mesh.tetrahedra.grid_points`.
    """
    points, cell = grid_points(resolution, extent), 2 * extent / resolution
    offset = torch.rand(points.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    inside = is_inside(
        points + JITTER * cell * offset,
        torch.from_numpy(vertices).float(),
        torch.from_numpy(np.ascontiguousarray(faces)),
    )
    distance = torch.full((len(points),), 2 * extent)
    near = _near_surface(inside, resolution)
    if near.any():  # none if the shape is between all points
        found = surface_distances(points[near].double().numpy(), vertices, faces)
        distance[near] = torch.from_numpy(found).float()
    return torch.where(inside, distance, -distance)


def _near_surface(inside: Tensor, resolution: int) -> Tensor:
    """Return which grid points have a point of the other side at most BAND + 1 cells away along each axis."""
    grid = inside.view(1, 1, *(resolution + 1,) * 3).float()
    width = 2 * (BAND + 1) + 1
    some, all_ = (max_pool3d(side, width, 1, width // 2) for side in (grid, 1 - grid))
    return ((some > 0) & (all_ > 0)).view(-1)
