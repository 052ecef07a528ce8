"""Rendering of an exported mesh with its texture."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.mesh.unwrap import UnwrappedMesh
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.lights import Lighting, studio
from prolific_core.render.mesh.lit import lit_shader
from prolific_core.render.mesh.raster import Hits, Visibility, interpolate, vertex_normals
from prolific_core.render.mesh.shading import Shader, render_mesh
from prolific_core.render.result import Render


class TexturedView:
    """Textured mesh that can be rendered but not trained.

    Args:
        mesh: The unwrapped mesh in world axes.
        texture: Texture (T, T, 3) of colours, which are shown as they are, or (T, T, 5) of base colour, roughness and
            metalness, which are lit. Float in [0, 1] or uint8; row 0 is the top.
        device: Device on which the mesh is rendered.
        backend: Visibility backend; see `render.mesh.raster.Visibility`.
        lighting: Light of materials; `render.mesh.lights.studio` by default.
    """

    def __init__(
        self,
        mesh: UnwrappedMesh,
        texture: Shaped[np.ndarray, "size size channels"],
        *,
        device: str | torch.device = "cpu",
        backend: str = "auto",
        lighting: Lighting | None = None,
    ):
        texels = torch.as_tensor(np.asarray(texture))
        texels = texels.float() / 255 if texels.dtype == torch.uint8 else texels.float()
        self.texture = texels.permute(2, 0, 1).contiguous().to(device)
        self.vertices = torch.as_tensor(mesh.vertices).float().to(device)
        self.faces = torch.as_tensor(mesh.faces).long().to(device)
        self.uvs = torch.as_tensor(mesh.uvs).float().to(device)
        self.visibility = Visibility(self.vertices, self.faces, backend)
        # Normals and silhouettes must not depend on the seams, so the copies of vertices on seams are merged.
        self.welded_vertices, weld = torch.unique(self.vertices, dim=0, return_inverse=True)
        self.welded_faces = weld[self.faces]
        self.edges = Edges.of(self.welded_faces)
        self.lighting = lighting or studio()

    def colour(self, uvs: Float[Tensor, "points 2"]) -> Float[Tensor, "points channels"]:
        """Sample the texture with bilinear interpolation.

        Args:
            uvs: Texture coordinates (N, 2) in [0, 1], with v pointing up.

        Returns:
            Values (N, C) of the texture in [0, 1].
        """
        place = torch.stack([uvs[:, 0] * 2 - 1, 1 - uvs[:, 1] * 2], dim=-1)
        found = torch.nn.functional.grid_sample(
            self.texture[None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T

    @torch.no_grad()
    def render(
        self,
        cameras: Cameras,
        resolution: int,
        background: float | Float[Tensor, "..."] = 1.0,
        *,
        supersampling: int = 2,
    ) -> Render:
        """Render the mesh without gradients.

        Args:
            cameras: Batch of B cameras.
            resolution: Height and width of the images in pixels.
            background: Grey level, or colours of shape (3,), (B, 3) or (B, 3, H, W).
            supersampling: Ratio of the rendering resolution to the resolution of the returned images.

        Returns:
            The rendered images; see `render.mesh.shading.render_mesh`.
        """
        return render_mesh(
            self.visibility,
            self.welded_vertices,
            self.welded_faces,
            cameras,
            resolution,
            self._shader(cameras),
            background=background,
            edges=self.edges,
            supersampling=supersampling,
        )

    def _shader(self, cameras: Cameras) -> Shader:
        def values(hits: Hits, points: Tensor) -> Tensor:
            return self.colour(interpolate(self.uvs, self.faces, hits.face, hits.barycentrics))

        if len(self.texture) == 3:
            return lambda hits, points, normals: values(hits, points)
        normals = vertex_normals(self.welded_vertices, self.welded_faces)
        return lit_shader(values, normals, self.welded_faces, cameras, self.lighting)
