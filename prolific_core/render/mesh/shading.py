"""A picture of a triangle mesh: hits, their colours, antialiased over a background."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from prolific_core.render.mesh.antialias import Edges, antialias
from prolific_core.render.mesh.raster import (
    Hits,
    Visibility,
    interpolate,
    trace,
    vertex_normals,
)
from prolific_core.render.result import Render

#: Colours (N, 3) in [0, 1] of N hits at world points (N, 3).
Shader = Callable[[Hits, Tensor], Tensor]


def broadcast_background(background: float | Tensor, like: Tensor) -> Tensor:
    """A background as (1 or B, 3, 1 or H, 1 or W): from a number, (3,), (B, 3) or (B, 3, H, W)."""
    background = torch.as_tensor(background, dtype=like.dtype, device=like.device)
    if background.dim() == 4:
        return background
    if background.dim() == 0:
        background = background.expand(3)
    return background.reshape(-1, 3, 1, 1)


def render_mesh(
    visibility: Visibility,
    vertices: Tensor,
    faces: Tensor,
    cameras,
    resolution: int,
    shader: Shader | None,
    *,
    background: float | Tensor = 0.5,
    edges: Edges | None = None,
    supersampling: int = 1,
) -> Render:
    """Render a mesh, differentiable in vertices and shader.

    visibility: of these vertices (V, 3) and faces (F, 3). cameras: anything with
    `rays(resolution)`. shader: colours of hits; None shows the normals. Only
    covered pixels are shaded. background: see `spread`. edges: `Edges.of(faces)`.
    supersampling: renders at this multiple of the resolution and averages.

    Returns rgb and normal over the background and 0.5 grey, opacity, all
    antialiased, and depth (not antialiased; 0 where nothing is).
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
        layers.append(hits.image(shader(hits, points), behind))
    picture = antialias(torch.cat(layers, dim=1), hits, vertices, faces, origins, directions, edges)
    depth = hits.image(hits.distance[:, None])
    if supersampling > 1:
        picture = avg_pool2d(picture, supersampling)
        # The mean over what was hit: background has no distance.
        covered = avg_pool2d((hits.face_id >= 0).to(depth)[:, None], supersampling)
        depth = avg_pool2d(depth, supersampling) / covered.clamp(min=1e-6)
    normal, opacity = picture[:, :3], picture[:, 3:4]
    return Render(rgb=normal if shader is None else picture[:, 4:], opacity=opacity, depth=depth, normal=normal)
