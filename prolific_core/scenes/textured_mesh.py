"""Fixed mesh with trainable colours, which is the scene of the texture stage."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prolific_core.cameras import Cameras
from prolific_core.config import TextureConfig
from prolific_core.mesh.extract import EmptyMesh
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import Visibility
from prolific_core.render.mesh.shading import Shader, render_mesh
from prolific_core.render.result import Render
from prolific_core.scenes.base import Scene


class TexturedMesh(nn.Module, Scene):
    """Mesh with fixed geometry, whose colour is a function of the world position.

    Args:
        vertices: World positions (V, 3).
        faces: Vertex indices (F, 3) of the triangles.
        colour: Function from world points (N, 3) to colours (N, 3) in [0, 1]. Training requires a module with
            `parameter_groups`, such as `ColourField`.
        background: Default background of deterministic renders in sRGB, a number or a tensor (3,), (B, 3) or
            (B, 3, H, W) in [0, 1].
        backend: Visibility backend; see `render.mesh.raster.Visibility`.
        train_config: Learning rates and settings for training renders.

    Raises:
        EmptyMesh: The mesh has no faces.
    """

    vertices: Tensor
    faces: Tensor

    def __init__(
        self,
        vertices: Float[Tensor, "vertices 3"],
        faces: Int[Tensor, "faces 3"],
        colour: nn.Module | Callable[[Tensor], Tensor],
        background: float | Tensor = 1.0,
        backend: str = "auto",
        train_config: TextureConfig | None = None,
    ):
        super().__init__()
        if len(faces) == 0:
            raise EmptyMesh("the mesh has no faces; it must have at least one")
        self.register_buffer("vertices", vertices.detach().float().clone())
        self.register_buffer("faces", faces.detach().long().clone())
        self.colour: Any = colour
        self.background, self.backend = background, backend
        self.train_config = train_config or TextureConfig()
        self._prepared: tuple[Visibility, Edges] | None = None

    def _apply(self, fn, *args, **kwargs):
        self._prepared = None  # discard the cache, because the tensors may move to another device
        return super()._apply(fn, *args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        """Restore geometry and colours; see `torch.nn.Module.load_state_dict`."""
        self._prepared = None
        return super().load_state_dict(*args, **kwargs)

    def prepared(self) -> tuple[Visibility, Edges]:
        """Return the search structure and the edges. Both are built only once, because the geometry is fixed."""
        if self._prepared is None:
            self._prepared = Visibility(self.vertices, self.faces, self.backend), Edges.of(self.faces)
        return self._prepared

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the colours' parameters with the learning rates of `train_config`."""
        config = self.train_config
        return self.colour.parameter_groups(
            {"grid": config.grid_learning_rate, "networks": config.network_learning_rate}
        )

    def render(
        self,
        cameras: Cameras,
        resolution: int,
        generator: torch.Generator | None = None,
        *,
        background: float | Tensor | None = None,
        supersampling: int = 1,
    ) -> Render:
        """Render one image for each camera, with gradients for the colours; see `Scene.render`.

        If a generator is given, the background and supersampling of `train_config` apply.

        Args:
            cameras: Cameras on the scene's device.
            resolution: Height and width of the images in pixels.
            generator: Source of the random backgrounds of training renders.
            background: Background of a deterministic render; None selects the scene's background.
            supersampling: Rays per pixel along each axis, for deterministic renders.
        """
        if generator is not None:
            background, supersampling = (
                self._random_background(len(cameras), generator),
                self.train_config.supersampling,
            )
        visibility, edges = self.prepared()
        return render_mesh(
            visibility,
            self.vertices,
            self.faces,
            cameras,
            resolution,
            self.shader(cameras),
            background=self.background if background is None else background,
            edges=edges,
            supersampling=supersampling,
        )

    def appearance(
        self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], to_camera: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """Return the colours (N, 3) that points of the surface show.

        Args:
            points: World points (N, 3).
            normals: Unit normals (N, 3). The colours of this class do not depend on them.
            to_camera: Unit directions (N, 3) towards the camera, likewise.
        """
        return self.colour(points)

    def shader(self, cameras: Cameras) -> Shader:
        """Return the function that computes the colours of the hits of a render.

        Args:
            cameras: The cameras of the render.
        """
        return lambda hits, points, normals: self.colour(points)

    def _random_background(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return a plain random colour (B, 3) with the configured probability, and white otherwise."""
        colour = torch.rand(batch, 3, generator=generator)
        plain = torch.rand(batch, 1, generator=generator) < self.train_config.random_background
        return torch.where(plain, colour, torch.ones(batch, 3)).to(self.vertices, non_blocking=True)
