"""A surface inside a tetrahedral grid of signed distances, seen as normals.

After DMTet (Shen et al. 2021, arXiv 2111.04276) and nvdiffrec (Munkberg et al.
2022): the signed distance and a small displacement of every grid point are
optimised; marching tetrahedra turns them into a mesh at every step.
"""

import logging
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from prolific_core.mesh.extract import EmptyMesh, marching_tetrahedra
from prolific_core.mesh.losses import laplacian_smoothness, normal_consistency
from prolific_core.mesh.tetrahedra import boundary_mask, grid_points, sdf_sign_loss
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import Visibility
from prolific_core.render.mesh.shading import render_mesh
from prolific_core.render.result import Render

log = logging.getLogger(__name__)

LOWEST_THRESHOLD = 0.5  # per world unit: a ray through a whole object is then still half clear


class TetrahedralSurface(nn.Module):
    """The zero level of a grid's signed distances.

    resolution R: cubes per side; extent: half the side of the grid's box, world
    units. Parameters: sdf ((R+1)^3,), positive inside, a sphere at first;
    deformation ((R+1)^3, 3), which moves grid points by tanh(deformation) times
    half a cell (extent / R), so that no tetrahedron can turn inside out along an
    edge of the grid. The outermost grid points always count as outside: the
    surface is closed.
    """

    def __init__(self, resolution: int, extent: float = 1.0, backend: str = "auto"):
        super().__init__()
        if resolution < 2 or extent <= 0:
            raise ValueError(f"a grid needs 2 cubes a side and an extent above 0, not {resolution} and {extent}")
        self.resolution, self.extent, self.backend = resolution, float(extent), backend
        points = grid_points(resolution, extent)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("boundary", boundary_mask(resolution), persistent=False)
        self.sdf = nn.Parameter(extent / 2 - points.norm(dim=-1))
        self.deformation = nn.Parameter(torch.zeros_like(points))
        self.threshold: float | None = None

    @classmethod
    def from_density(
        cls,
        density_fn: Callable[[Tensor], Tensor],
        threshold: float,
        resolution: int,
        extent: float,
        *,
        component_fraction: float = 0.05,
        smoothing: int = 0,
        device="cpu",
        backend: str = "auto",
        chunk: int = 65536,
    ) -> "TetrahedralSurface":
        """The surface density = threshold: sdf is density / threshold - 1, clamped to [-1, 1].

        Relative, so that it passes through zero as smoothly as the density does: the plain
        difference is beyond the clamp one cell from the surface, which leaves terraces.

        density_fn: (N, 3) world points -> (N,) or (N, 1), >= 0. A threshold that
        nothing reaches, or everything exceeds, is replaced by half the largest
        density, or the middle of the range; `.threshold` says which was used.
        component_fraction: connected parts with fewer grid points than this share
        of the largest are dropped (floaters); 0 keeps all. smoothing: passes of
        a (1 2 1)/4 filter along each axis over the clamped sdf, against the
        steps that clamping leaves; thin parts erode.

        Raises EmptyMesh (a ValueError) with the cause where there is no surface.
        """
        surface = cls(resolution, extent, backend).to(device)
        with torch.no_grad():
            density = torch.cat([density_fn(p).reshape(-1).float() for p in surface.points.split(chunk)])
            surface.threshold = usable_threshold(density[~surface.boundary], threshold)
            sdf = (density / surface.threshold - 1).clamp(-1, 1)
            sdf = torch.where(surface.boundary, -sdf.abs().clamp(min=1e-3), sdf)
            sdf = _drop_floaters(sdf.view((resolution + 1,) * 3), component_fraction)
            for _ in range(smoothing):
                sdf = _smooth(sdf)
            if not (sdf[1:-1, 1:-1, 1:-1] > 0).any():
                raise EmptyMesh("smoothing erased the surface; lower it, or raise the grid's resolution")
            surface.sdf.copy_(sdf.reshape(-1))
        return surface

    def extract(self) -> tuple[Tensor, Tensor]:
        """Vertices (V, 3), differentiable, and faces (F, 3): closed, facing outward; may be empty."""
        points = self.points + torch.tanh(self.deformation) * (self.extent / self.resolution)
        closed = torch.where(self.boundary, -self.sdf.detach().abs() - 1e-3, self.sdf)
        return marching_tetrahedra(points, closed, self.resolution)

    def render(
        self,
        cameras,
        resolution: int,
        *,
        losses: Collection[str] = (),
        supersampling: int = 1,
        generator: torch.Generator | None = None,
    ) -> Render:
        """Normals (n + 1) / 2 over 0.5 grey as rgb, with opacity, depth and normal.

        losses: which regularisers to compute for `Render.losses`, of
        "normal_consistency", "laplacian" (lengths in cells of the grid, so that
        a weight means the same at every resolution), "sdf_regularisation".
        generator: not used, nothing here is random. Raises EmptyMesh where the
        surface has vanished.
        """
        vertices, faces = self.extract()
        if len(faces) == 0:
            raise EmptyMesh("the surface has vanished: lower the learning rate or the guidance scale of the geometry")
        edges = Edges.of(faces)
        picture = render_mesh(
            Visibility(vertices, faces, self.backend),
            vertices,
            faces,
            cameras,
            resolution,
            None,
            edges=edges,
            supersampling=supersampling,
        )
        known = {
            "normal_consistency": lambda: normal_consistency(vertices, faces, edges),
            "laplacian": lambda: laplacian_smoothness(vertices * (self.resolution / (2 * self.extent)), faces, edges),
            "sdf_regularisation": lambda: sdf_sign_loss(self.sdf, self.resolution),
        }
        for name in losses:
            picture.losses[name] = known[name]()
        return picture

    def parameter_groups(self, learning_rate: float, deformation_learning_rate: float | None = None) -> list[dict]:
        """Groups for an optimizer; the displacements' rate is the same unless given."""
        other = learning_rate if deformation_learning_rate is None else deformation_learning_rate
        return [
            {"params": [self.sdf], "lr": learning_rate, "name": "sdf"},
            {"params": [self.deformation], "lr": other, "name": "deformation"},
        ]


@torch.no_grad()
def matching_threshold(density_fn, opacity: Tensor, cameras, resolution: int, extent: float, **options) -> float:
    """The density whose surface has the silhouettes of the field's own pictures.

    opacity (B, 1, S, S): the field's, from `cameras`. Of thresholds a factor sqrt(2) apart, the one
    with the largest intersection over union with opacity > 0.5; a fixed one makes a mesh smaller
    than the picture wherever the field is thinner than expected, and larger where it is denser.
    """
    wanted = opacity > 0.5
    best, result = -1.0, LOWEST_THRESHOLD
    for threshold in LOWEST_THRESHOLD * 2 ** (torch.arange(16) / 2):
        try:
            surface = TetrahedralSurface.from_density(density_fn, float(threshold), resolution, extent, **options)
        except EmptyMesh:
            break
        if surface.threshold != float(threshold):  # beyond what the field reaches
            break
        seen = surface.render(cameras, opacity.shape[-1]).opacity > 0.5
        union = (seen | wanted).sum()
        overlap = float((seen & wanted).sum() / union) if union > 0 else 0.0
        if overlap > best:
            best, result = overlap, float(threshold)
    return result


def usable_threshold(density: Tensor, threshold: float) -> float:
    """The threshold, or the nearest sensible one that some points exceed and some do not.

    density (N,). Raises EmptyMesh naming the cause if no threshold would do.
    """
    if not torch.isfinite(density).all():
        bad = int((~torch.isfinite(density)).sum())
        raise EmptyMesh(f"no surface: the density is not a number at {bad} of {len(density)} grid points")
    low, high = float(density.min()), float(density.max())
    if high <= 0:
        raise EmptyMesh(
            "no surface: the density is 0 everywhere in the grid; has the field collapsed, or is the extent too small?"
        )
    if high - low <= 1e-6 * high:
        raise EmptyMesh(f"no surface: the density is {high:g} everywhere in the grid; has the field been trained?")
    if low < threshold < high:
        return float(threshold)
    better = high / 2 if high <= threshold and low < high / 2 else (low + high) / 2
    log.warning("no surface at density %g (densities reach from %g to %g): using %g", threshold, low, high, better)
    return better


def _drop_floaters(sdf: Tensor, share: float) -> Tensor:
    """Turns inside parts (26-connected) smaller than `share` of the largest outside. sdf (n, n, n)."""
    if share <= 0:
        return sdf
    import numpy as np
    from scipy import ndimage

    label, count = ndimage.label((sdf > 0).cpu().numpy(), structure=np.ones((3, 3, 3)))
    if count == 0:
        return sdf
    size = np.bincount(label.reshape(-1))
    size[0] = 0
    drop = size < share * size.max()
    drop[0] = False
    return torch.where(torch.from_numpy(drop[label]).to(sdf.device), -sdf, sdf)


def _smooth(grid: Tensor) -> Tensor:
    """One (1 2 1)/4 pass along each axis; the ends repeat. grid (n, n, n)."""
    for axis in range(3):
        n = grid.shape[axis]
        index = torch.arange(n, device=grid.device)
        before = grid.index_select(axis, (index - 1).clamp(min=0))
        after = grid.index_select(axis, (index + 1).clamp(max=n - 1))
        grid = (before + 2 * grid + after) / 4
    return grid
