"""Surface defined by a tetrahedral grid of signed distances and rendered as normals.

As in DMTet (Shen et al., arXiv 2111.04276) and nvdiffrec (Munkberg et al., arXiv 2111.12503), the signed distance and a
small displacement of every grid point are trained, and marching tetrahedra converts them to a mesh at every step.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prolific_core.cameras import Cameras
from prolific_core.config import GeometryConfig
from prolific_core.mesh.components import drop_floaters, fill_hollows
from prolific_core.mesh.extract import EmptyMesh, marching_tetrahedra
from prolific_core.mesh.losses import laplacian_smoothness, normal_consistency
from prolific_core.mesh.tetrahedra import boundary_mask, grid_points, sdf_sign_loss
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import Visibility
from prolific_core.render.mesh.shading import Shader, render_mesh
from prolific_core.render.result import Render
from prolific_core.scenes.base import Scene

log = logging.getLogger(__name__)


class TetrahedralSurface(nn.Module, Scene):
    """Zero level set of a grid of signed distances.

    The parameters are `sdf` ((R+1)^3,), which is positive inside and initialised to a sphere, and `deformation`
    ((R+1)^3, 3). `deformation` moves each grid point by tanh(deformation) times half a cell (extent / R), so that
    tetrahedra cannot turn inside out along an edge of the grid. The outermost grid points always count as outside, so
    that the surface is closed.

    Args:
        resolution: Number R of cubes per side.
        extent: Half the side of the grid's box in world units.
        backend: Visibility backend; see `render.mesh.raster.Visibility`.
        train_config: Learning rate and regulariser weights.

    Attributes:
        threshold: Value at which `from_values` placed the surface.

    Raises:
        ValueError: `resolution` is below 2, or `extent` is not positive.
    """

    points: Tensor
    boundary: Tensor

    def __init__(
        self,
        resolution: int,
        extent: float = 1.0,
        backend: str = "auto",
        train_config: GeometryConfig | None = None,
    ):
        super().__init__()
        if resolution < 2 or extent <= 0:
            raise ValueError(
                f"resolution must be at least 2 and extent must be positive, got {resolution} and {extent}"
            )
        self.resolution, self.extent, self.backend = resolution, float(extent), backend
        self.train_config = train_config or GeometryConfig()
        self.learning_rate = self.train_config.learning_rate
        points = grid_points(resolution, extent)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("boundary", boundary_mask(resolution), persistent=False)
        self.sdf = nn.Parameter(extent / 2 - points.norm(dim=-1))
        self.deformation = nn.Parameter(torch.zeros_like(points))
        self.threshold = float("nan")

    @classmethod
    def from_density(
        cls,
        density_fn: Callable[[Tensor], Tensor],
        threshold: float,
        resolution: int,
        extent: float,
        *,
        device: str | torch.device = "cpu",
        chunk: int = 65536,
        **options: Any,
    ) -> "TetrahedralSurface":
        """Return the surface at which the density equals the threshold.

        Args:
            density_fn: Function from world points (N, 3) to densities (N,) or (N, 1), at least 0.
            threshold: Density at the surface per world unit.
            resolution: Number of cubes per side.
            extent: Half the side of the grid's box in world units.
            device: Device of the surface.
            chunk: Number of points that are evaluated at once.
            options: Further arguments of `from_values`.

        Raises:
            EmptyMesh: The surface is empty. The message names the cause.
        """
        density = values_on_grid(density_fn, resolution, extent, device=device, chunk=chunk)
        return cls.from_values(density, threshold, resolution, extent, **options)

    @classmethod
    def from_values(
        cls,
        values: Float[Tensor, " points"],
        threshold: float,
        resolution: int,
        extent: float,
        *,
        component_fraction: float = 0.05,
        fill: bool = False,
        smoothing: int = 0,
        backend: str = "auto",
        train_config: GeometryConfig | None = None,
    ) -> "TetrahedralSurface":
        """Return the surface at which values that increase inwards, such as densities, equal the threshold.

        The signed distance is value / threshold - 1, clamped to [-1, 1]. Division by the threshold keeps values near
        the surface inside the clamped range. The plain difference would reach the limits within one cell of the
        surface, which causes terraces.

        Args:
            values: Values ((R+1)^3,) at the grid's points, at least 0; see `mesh.tetrahedra.grid_points`.
            threshold: Value at the surface. A threshold outside the range of the values is replaced; see
                `usable_threshold`.
            resolution: Number R of cubes per side.
            extent: Half the side of the grid's box in world units.
            component_fraction: Connected parts with fewer grid points than this fraction of the largest part
                (floaters) are removed; 0 keeps all parts.
            fill: Whether hollows without a connection to the outside are filled. They are the space in which the
                cameras are if the scene is seen from inside.
            smoothing: Number of passes of a (1 2 1)/4 filter along each axis over the clamped signed distance. The
                passes remove the steps caused by clamping but erode thin parts.
            backend: Visibility backend; see `render.mesh.raster.Visibility`.
            train_config: Training settings; see `TetrahedralSurface`.

        Raises:
            EmptyMesh: The surface is empty. The message names the cause.
        """
        surface = cls(resolution, extent, backend, train_config).to(values.device)
        with torch.no_grad():
            surface.threshold = usable_threshold(values[~surface.boundary], threshold)
            sdf = (values / surface.threshold - 1).clamp(-1, 1)
            sdf = torch.where(surface.boundary, -sdf.abs().clamp(min=1e-3), sdf)
            sdf = drop_floaters(sdf.view((resolution + 1,) * 3), component_fraction)
            if fill:
                sdf = fill_hollows(sdf)
            for _ in range(smoothing):
                sdf = _smooth(sdf)
            if not (sdf[1:-1, 1:-1, 1:-1] > 0).any():
                raise EmptyMesh("smoothing has removed the surface; lower smoothing, or raise the grid's resolution")
            surface.sdf.copy_(sdf.reshape(-1))
        return surface

    def extract(self) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
        """Return the surface as a mesh.

        Returns:
            Differentiable vertices (V, 3) and faces (F, 3). The mesh is closed with outward-facing faces, and may be
            empty.
        """
        points = self.points + torch.tanh(self.deformation) * (self.extent / self.resolution)
        closed = torch.where(self.boundary, -self.sdf.detach().abs() - 1e-3, self.sdf)
        return marching_tetrahedra(points, closed, self.resolution)

    def render(
        self,
        cameras: Cameras,
        resolution: int,
        generator: torch.Generator | None = None,
        *,
        supersampling: int = 1,
        shader: Shader | None = None,
        background: float | Tensor = 0.5,
    ) -> Render:
        """Render normals n as colours (n + 1) / 2 over a grey background (0.5); see `Scene.render`.

        Without a shader, `Render.rgb` and `Render.normal` are the same images. If a generator is given, `Render.losses`
        holds the regularisers with a positive weight in `train_config`. The Laplacian is in units of the grid's cells,
        so that its weight has the same effect at every resolution.

        Args:
            cameras: Cameras on the scene's device.
            resolution: Height and width of the images in pixels.
            generator: Any generator for a training render, or None for a deterministic render. No random numbers are
                drawn.
            supersampling: Rays per pixel along each axis.
            shader: Function that returns the colours of points on the surface, for `Render.rgb`; see `render_mesh`.
            background: Background of the colours; that of normals is always grey.

        Raises:
            EmptyMesh: The surface has vanished.
        """
        vertices, faces = self.extract()
        if len(faces) == 0:
            raise EmptyMesh("the surface has vanished; lower the learning rate or the guidance scale of geometry")
        edges = Edges.of(faces)
        visibility = Visibility(vertices, faces, self.backend)
        options: dict[str, Any] = {"edges": edges, "supersampling": supersampling, "background": background}
        render = render_mesh(visibility, vertices, faces, cameras, resolution, shader, **options)
        if generator is not None:
            cells = self.resolution / (2 * self.extent)
            regularisers = {
                "normal_consistency": lambda: normal_consistency(vertices, faces, edges),
                "laplacian": lambda: laplacian_smoothness(vertices * cells, faces, edges),
                "sdf_regularisation": lambda: sdf_sign_loss(self.sdf, self.resolution),
            }
            render.losses = {
                name: loss() for name, loss in regularisers.items() if getattr(self.train_config, name) > 0
            }
        return render

    def losses(self, render: Render, progress: float) -> dict[str, Tensor]:
        """Return the weighted regularisers that `train_config` enables; see `Scene.losses`."""
        config = self.train_config
        losses = {name: getattr(config, name) * value for name, value in render.losses.items()}
        return losses | ({"opacity": config.opacity * render.opacity.mean()} if config.opacity > 0 else {})


@torch.no_grad()
def values_on_grid(
    function: Callable[[Tensor], Tensor],
    resolution: int,
    extent: float,
    *,
    device: str | torch.device = "cpu",
    chunk: int = 65536,
) -> Float[Tensor, " points"]:
    """Evaluate a function of world points (N, 3) with one value per point at the points of a grid.

    Args:
        function: Function from world points (N, 3) to values (N,) or (N, 1).
        resolution: Number R of cubes per side.
        extent: Half the side of the grid's box in world units.
        device: Device of the points.
        chunk: Number of points that are evaluated at once.

    Returns:
        Values ((R+1)^3,), float32; see `mesh.tetrahedra.grid_points`.
    """
    points = grid_points(resolution, extent, device)
    return torch.cat([function(part).reshape(-1).float() for part in points.split(chunk)])


def usable_threshold(density: Float[Tensor, " n"], threshold: float) -> float:
    """Return a threshold within the range of the densities.

    Args:
        density: Densities (N,) of the grid points.
        threshold: The desired threshold.

    Returns:
        The desired threshold if it is usable. Otherwise, half the largest density or, if that is not usable either, the
        middle of the range.

    Raises:
        EmptyMesh: No threshold is usable. The message names the cause.
    """
    if not torch.isfinite(density).all():
        bad = int((~torch.isfinite(density)).sum())
        raise EmptyMesh(f"no surface: the density is infinite or not a number at {bad} of {len(density)} grid points")
    low, high = float(density.min()), float(density.max())
    if high <= 0:
        raise EmptyMesh(
            "no surface: the density is 0 everywhere in the grid; raise the extent, or retrain a collapsed field"
        )
    if high - low <= 1e-6 * high:
        raise EmptyMesh(f"no surface: the density is {high:g} everywhere in the grid; train the field first")
    if low < threshold < high:
        return float(threshold)
    better = high / 2 if high <= threshold and low < high / 2 else (low + high) / 2
    log.warning("no surface at density %g (the densities range from %g to %g): using %g", threshold, low, high, better)
    return better


def _smooth(grid: Tensor) -> Tensor:
    """Filter a grid (n, n, n) by (1 2 1)/4 along each axis, repeating the values at its borders."""
    for axis in range(3):
        n = grid.shape[axis]
        index = torch.arange(n, device=grid.device)
        before = grid.index_select(axis, (index - 1).clamp(min=0))
        after = grid.index_select(axis, (index + 1).clamp(max=n - 1))
        grid = (before + 2 * grid + after) / 4
    return grid
