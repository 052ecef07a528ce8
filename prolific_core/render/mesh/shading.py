"""Shading of triangle meshes, with antialiasing over a background."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from prolific_core.cameras import Cameras
from prolific_core.render.mesh.antialias import Edges, antialias
from prolific_core.render.mesh.raster import (
    Hits,
    Visibility,
    interpolate,
    trace,
    vertex_normals,
)
from prolific_core.render.result import Render

#: Function from N hits, their world points (N, 3) and smooth unit normals (N, 3) to colours (N, 3) in [0, 1].
Shader = Callable[[Hits, Tensor, Tensor], Tensor]


def broadcast_background(background: float | Float[Tensor, "..."], like: Tensor) -> Float[Tensor, "_ 3 _ _"]:
    """Reshape a background so that it broadcasts with images (B, 3, H, W).

    Args:
        background: A number, or a colour (3,), (B, 3) or (B, 3, H, W).
        like: A tensor with the data type and device of the result.

    Returns:
        A tensor (1 or B, 3, 1 or H, 1 or W).
    """
    if torch.is_tensor(background):
        background = background.to(like)
    else:
        background = torch.full((), background, dtype=like.dtype, device=like.device)
    if background.dim() == 4:
        return background
    if background.dim() == 0:
        background = background.expand(3)
    return background.reshape(-1, 3, 1, 1)


def render_mesh(
    visibility: Visibility,
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    cameras: Cameras,
    resolution: int,
    shader: Shader | None,
    *,
    background: float | Tensor = 0.5,
    edges: Edges | None = None,
    supersampling: int = 1,
) -> Render:
    """Render a mesh with gradients for the vertices and the shader's parameters.

    Example:
        >>> from prolific_core import cameras
        >>> vertices = torch.tensor([[0.0, -0.4, -0.4], [0.0, 0.4, -0.4], [0.0, 0.0, 0.4]])
        >>> faces = torch.tensor([[0, 1, 2]])
        >>> views = cameras.orbit(4, elevation=20, distance=2.0, fov=45)
        >>> render_mesh(Visibility(vertices, faces), vertices, faces, views, 32, None).rgb.shape
        torch.Size([4, 3, 32, 32])

    Args:
        visibility: Search structure of the same vertices and faces.
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        cameras: The B cameras.
        resolution: Height and width of the images in pixels.
        shader: Function that returns the colours of the covered pixels; None renders the normals as colours.
        background: A number, or a colour (3,), (B, 3) or (B, 3, H, W).
        edges: Precomputed `Edges.of(faces)`, which can be reused while the faces do not change. If None, the edges are
            computed.
        supersampling: Rays per pixel along each axis, whose results are averaged.

    Returns:
        Antialiased images of the colours over the background, the normals over grey (0.5) and the opacity. The depth is
        not antialiased and is 0 where nothing was hit.
    """
    origins, directions = cameras.rays(resolution * supersampling)
    origins, directions = origins.to(vertices), directions.to(vertices)
    hits = trace(visibility, vertices, faces, origins, directions)
    smooth = interpolate(vertex_normals(vertices, faces), faces, hits.face, hits.barycentrics)
    smooth = smooth / (smooth.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    normal = hits.image((smooth + 1) / 2, 0.5)
    layers = [normal, hits.image(torch.ones_like(smooth[:, :1]), 0.0)]
    if shader is not None:
        points = interpolate(vertices, faces, hits.face, hits.barycentrics)
        behind = broadcast_background(background, vertices)
        if behind.shape[-1] > 1 and supersampling > 1:
            behind = behind.repeat_interleave(supersampling, 2).repeat_interleave(supersampling, 3)
        layers.append(hits.image(shader(hits, points, smooth), behind))
    image = antialias(torch.cat(layers, dim=1), hits, vertices, faces, origins, directions, edges)
    depth = hits.image(hits.distance[:, None])
    if supersampling > 1:
        image = avg_pool2d(image, supersampling)
        # Average only over samples with a hit, because the background has no distance.
        covered = avg_pool2d((hits.face_id >= 0).to(depth)[:, None], supersampling)
        depth = avg_pool2d(depth, supersampling) / covered.clamp(min=1e-6)
    normal, opacity = image[:, :3], image[:, 3:4]
    return Render(rgb=normal if shader is None else image[:, 4:], opacity=opacity, depth=depth, normal=normal)
