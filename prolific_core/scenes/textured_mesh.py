"""A fixed mesh with a colour field: what the texture stage optimises."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prolific_core.mesh.extract import EmptyMesh
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import Visibility
from prolific_core.render.mesh.shading import render_mesh
from prolific_core.render.result import Render


class TexturedMesh(nn.Module):
    """Fixed geometry; colour is a function of the point.

    vertices (V, 3), faces (F, 3) int64: world axes, buffers.
    colour: (N, 3) world points -> (N, 3) in [0, 1]; a module is trained.
    background: a number, (3,), (B, 3) or (B, 3, H, W), sRGB in [0, 1].
    backend: of the visibility, see `render.raster.Visibility`.
    Raises EmptyMesh for a mesh without faces.
    """

    def __init__(
        self,
        vertices: Tensor,
        faces: Tensor,
        colour: nn.Module | Callable[[Tensor], Tensor],
        background: float | Tensor = 1.0,
        backend: str = "auto",
    ):
        super().__init__()
        if len(faces) == 0:
            raise EmptyMesh("the mesh to be textured has no faces")
        self.register_buffer("vertices", vertices.detach().float().clone())
        self.register_buffer("faces", faces.detach().long().clone())
        self.colour = colour
        self.background = background
        self.backend = backend
        self._prepared: tuple[Visibility, Edges] | None = None

    def _apply(self, fn, *args, **kwargs):
        self._prepared = None  # moved to another device
        return super()._apply(fn, *args, **kwargs)

    def prepared(self) -> tuple[Visibility, Edges]:
        """The search structure and the edges, built once: the geometry is fixed."""
        if self._prepared is None:
            self._prepared = Visibility(self.vertices, self.faces, self.backend), Edges.of(self.faces)
        return self._prepared

    def load_state_dict(self, *args, **kwargs):
        self._prepared = None
        return super().load_state_dict(*args, **kwargs)

    def render(
        self,
        cameras,
        resolution: int,
        background: float | Tensor | None = None,
        *,
        supersampling: int = 1,
        generator: torch.Generator | None = None,
    ) -> Render:
        """Pictures (B, 3, resolution, resolution), differentiable in the colours.

        background: replaces the mesh's own for this render. generator: not
        used, nothing here is random; scenes share their signature.
        """
        visibility, edges = self.prepared()
        return render_mesh(
            visibility,
            self.vertices,
            self.faces,
            cameras,
            resolution,
            lambda hits, points: self.colour(points),
            background=self.background if background is None else background,
            edges=edges,
            supersampling=supersampling,
        )
