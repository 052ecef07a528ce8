"""Extraction of the surface of a radiance field, which is the start of the geometry stage."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.cameras import Cameras, orbit
from prolific_core.config import GeometryConfig
from prolific_core.mesh.extract import EmptyMesh
from prolific_core.scenes.measured_extent import measured_extent
from prolific_core.scenes.optical_depth import least_optical_depth, spread_directions
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.surface import TetrahedralSurface, values_on_grid

#: Height and width in pixels of the silhouettes by which a threshold is chosen.
SILHOUETTE_SIDE = 96

#: Number of directions in which the optical depth is computed.
DIRECTIONS = 48

#: Optical depths that may become the surface. They are a factor of 2^(1/3) apart; a transmittance of .95 to .37.
OPTICAL_DEPTHS = tuple(0.05 * 2 ** (k / 3) for k in range(14))

#: Number of candidates without a better match after which the search ends.
PATIENCE = 2

#: Densities per world unit that may become the surface of a 360-degree scene, a factor of sqrt(2) apart.
DENSITIES = tuple(0.5 * 2 ** (k / 2) for k in range(16))


def by_optical_depth(field: RadianceField, config: GeometryConfig) -> bool:
    """Return whether the surface of a field is extracted by its optical depth instead of its density."""
    return config.density_threshold is None and field.config.scene == "object"


@torch.no_grad()
def extract_surface(field: RadianceField, config: GeometryConfig, backend: str = "auto") -> TetrahedralSurface:
    """Return the surface of a field.

    Args:
        field: The radiance field.
        config: Parameters of the geometry stage. If it has a density threshold, the surface is where the density equals
            that threshold. Otherwise, it is where an object begins to be hidden; see `optical_depth.py`. The optical
            depth at the surface is the one that best matches the object's silhouettes. In 360-degree scenes, whose
            cameras are inside, it is the density that best matches them. If it has no extent, the box of the surface is
            measured, and the surface is extracted again in that box.
        backend: Visibility backend; see `render.mesh.raster.Visibility`.

    Raises:
        EmptyMesh: The surface is empty. The message names the cause.
    """
    bound = field.config.bound
    surface = _surface(field, config, config.extent or bound, backend)
    if config.extent is None:
        surface = _surface(field, config, measured_extent(surface, bound), backend)
    return surface


def _surface(field: RadianceField, config: GeometryConfig, extent: float, backend: str) -> TetrahedralSurface:
    """Return the surface of a field in [-extent, extent]^3."""
    device, resolution = field.occupancy.density.device, config.grid_resolution
    options = {"smoothing": config.smoothing, "backend": backend, "fill": field.config.scene == "object"}
    values, candidates = values_on_grid(field.density, resolution, extent, device=device), DENSITIES
    threshold = config.density_threshold
    if threshold is None:
        if by_optical_depth(field, config) and values.isfinite().all():
            grid = values.view((resolution + 1,) * 3)
            values = least_optical_depth(grid, extent, spread_directions(DIRECTIONS, device=device)).view(-1)
            candidates = OPTICAL_DEPTHS
        views = orbit(4, elevation=20, distance=1.4, fov=45).to(device)
        opacity = field.render(views, SILHOUETTE_SIDE).opacity
        threshold = matching_threshold(values, candidates, opacity, views, resolution, extent, **options)
    return TetrahedralSurface.from_values(values, threshold, resolution, extent, **options, train_config=config)


@torch.no_grad()
def matching_threshold(
    values: Float[Tensor, " points"],
    candidates: Sequence[float],
    opacity: Float[Tensor, "batch 1 side side"],
    cameras: Cameras,
    resolution: int,
    extent: float,
    **options: Any,
) -> float:
    """Return the threshold whose surface best matches the silhouettes of a field's renders.

    The opacity of the result has the smallest mean absolute difference from that of the field. With a fixed threshold,
    the mesh would be too small for fields that are thinner than expected and too large for denser ones.

    Args:
        values: Values ((R+1)^3,) at the grid's points; see `TetrahedralSurface.from_values`.
        candidates: Thresholds in ascending order.
        opacity: Opacity (B, 1, S, S) of the field's renders.
        cameras: The B cameras of these renders.
        resolution: Number R of cubes per side of the grid.
        extent: Half the side of the grid's box in world units.
        options: Further arguments of `TetrahedralSurface.from_values`.
    """
    best, chosen = math.inf, 0
    for index, threshold in enumerate(candidates):
        if index > chosen + PATIENCE:
            break
        try:
            surface = TetrahedralSurface.from_values(values, threshold, resolution, extent, **options)
        except EmptyMesh:
            break
        if surface.threshold != threshold:  # the field does not reach this value
            break
        difference = float((surface.render(cameras, opacity.shape[-1]).opacity - opacity).abs().mean())
        if difference < best:
            best, chosen = difference, index
    return candidates[chosen]
