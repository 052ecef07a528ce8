"""Fixed mesh with trainable materials, which is the scene of the texture stage with `texture.material: pbr`."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor, nn

from prolific_core.cameras import Cameras
from prolific_core.config import TextureConfig
from prolific_core.render.mesh.lights import Lighting
from prolific_core.render.mesh.lit import lit_colours, lit_shader
from prolific_core.render.mesh.raster import vertex_normals
from prolific_core.render.mesh.shading import Shader
from prolific_core.scenes.textured_mesh import TexturedMesh


class MaterialMesh(TexturedMesh):
    """Mesh with fixed geometry, whose material is a function of the world position.

    Args:
        vertices: World positions (V, 3).
        faces: Vertex indices (F, 3) of the triangles.
        material: Function from world points (N, 3) to sRGB base colour, roughness and metalness (N, 5) in [0, 1].
            Training requires a module with `parameter_groups`, such as `MaterialField`.
        lighting: The light of all renders.
        backend: Visibility backend; see `render.mesh.raster.Visibility`.
        train_config: Learning rates and settings for training renders.

    Raises:
        EmptyMesh: The mesh has no faces.
    """

    normals: Tensor

    def __init__(
        self,
        vertices: Float[Tensor, "vertices 3"],
        faces: Int[Tensor, "faces 3"],
        material: nn.Module | Callable[[Tensor], Tensor],
        lighting: Lighting,
        backend: str = "auto",
        train_config: TextureConfig | None = None,
    ):
        super().__init__(vertices, faces, material, backend=backend, train_config=train_config)
        self.register_buffer("normals", vertex_normals(self.vertices, self.faces), persistent=False)
        self.lighting = lighting

    def appearance(
        self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], to_camera: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """Return the lit colours of points, which exceed 1 where the light is brighter than white."""
        return lit_colours(self.colour(points), normals, to_camera, self.lighting)

    def shader(self, cameras: Cameras) -> Shader:
        """Return the function that lights the hits of a render.

        Args:
            cameras: The cameras of the render.
        """
        return lit_shader(lambda hits, points: self.colour(points), self.normals, self.faces, cameras, self.lighting)
