"""The exported mesh looked at again: what is measured is what the user gets."""

import numpy as np
import torch
from torch import Tensor

from prolific_core.mesh.unwrap import UnwrappedMesh
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import Visibility, interpolate
from prolific_core.render.mesh.shading import render_mesh
from prolific_core.render.result import Render


class TexturedView:
    """A cut mesh and its texture, ready to be rendered; nothing here is trained.

    mesh: world axes; texture: (T, T, 3) float in [0, 1], or uint8, row 0 the
    top. Both stay available as `.mesh` and `.texture` (3, T, T).
    """

    def __init__(self, mesh: UnwrappedMesh, texture: np.ndarray, *, device="cpu", backend: str = "auto"):
        self.mesh, self.backend = mesh, backend
        texture = torch.as_tensor(np.asarray(texture))
        texture = texture.float() / 255 if texture.dtype == torch.uint8 else texture.float()
        self.texture = texture.permute(2, 0, 1).contiguous().to(device)
        self.vertices = torch.as_tensor(mesh.vertices).float().to(device)
        self.faces = torch.as_tensor(mesh.faces).long().to(device)
        self.uvs = torch.as_tensor(mesh.uvs).float().to(device)
        self.visibility = Visibility(self.vertices, self.faces, backend)
        # Normals and silhouettes belong to the surface, not to the cut: weld the
        # copies that seams made.
        self.welded_vertices, weld = torch.unique(self.vertices, dim=0, return_inverse=True)
        self.welded_faces = weld[self.faces]
        self.edges = Edges.of(self.welded_faces)

    def to(self, device) -> "TexturedView":
        """The same on another device."""
        if torch.device(device) == self.vertices.device:
            return self
        return TexturedView(self.mesh, self.texture.permute(1, 2, 0).cpu().numpy(), device=device, backend=self.backend)

    def colour(self, uvs: Tensor) -> Tensor:
        """Bilinear lookup: uvs (N, 2), v up, to (N, 3)."""
        place = torch.stack([uvs[:, 0] * 2 - 1, 1 - uvs[:, 1] * 2], dim=-1)
        found = torch.nn.functional.grid_sample(
            self.texture[None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T

    @torch.no_grad()
    def render(self, cameras, resolution: int, background=1.0, *, supersampling: int = 2) -> Render:
        """Pictures (B, 3, resolution, resolution) over `background`; see `shading.render_mesh`."""
        return render_mesh(
            self.visibility,
            self.welded_vertices,
            self.welded_faces,
            cameras,
            resolution,
            lambda hits, points: self.colour(interpolate(self.uvs, self.faces, hits.face, hits.barycentrics)),
            background=background,
            edges=self.edges,
            supersampling=supersampling,
        )
