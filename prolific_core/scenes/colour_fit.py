"""Colours of a mesh, fitted to the renders of the radiance field that the mesh comes from.

A render of the field mixes the colours of all samples along a ray. The colour at a single point of the surface was
never trained alone, and is often that of the inside, or pale. The start of the texture stage is therefore the colour
that the field shows where a ray meets the mesh.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from prolific_core.cameras import sample
from prolific_core.config import TextureConfig
from prolific_core.render.mesh.raster import face_normals, interpolate, trace, vertex_normals
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.textured_mesh import TexturedMesh

#: Number of views of the field, and bounds of their height and width in pixels.
VIEWS, LOWEST_SIDE, HIGHEST_SIDE = 32, 96, 256

#: Number of surface points per step.
BATCH = 2**13


@dataclass(frozen=True)
class ShownColours:
    """Colours that a field shows at points of a mesh.

    Attributes:
        points: World points (N, 3) on the mesh.
        colours: Colours (N, 3) in [0, 1] without the background.
        weights: Weights (N,) in [0, 1]: the field's opacity times the cosine of the angle of incidence.
        normals: Smooth unit normals (N, 3) of the mesh.
        to_camera: Unit directions (N, 3) towards the camera.
    """

    points: Float[Tensor, "n 3"]
    colours: Float[Tensor, "n 3"]
    weights: Float[Tensor, " n"]
    normals: Float[Tensor, "n 3"]
    to_camera: Float[Tensor, "n 3"]


@torch.no_grad()
def shown_colours(
    field: RadianceField, mesh: TexturedMesh, config: TextureConfig, generator: torch.Generator | None = None
) -> ShownColours:
    """Render the field from random training cameras, and collect its colours where the rays meet the mesh.

    Args:
        field: The radiance field.
        mesh: A mesh on the field's device.
        config: Parameters of the texture stage, of which the cameras and the resolution are used.
        generator: Source of the cameras.
    """
    side = max(LOWEST_SIDE, min(HIGHEST_SIDE, max(side for _, side in config.resolution)))
    normals = normalize(face_normals(mesh.vertices, mesh.faces), dim=-1)
    at_vertices = vertex_normals(mesh.vertices, mesh.faces)
    visibility, _ = mesh.prepared()
    parts = []
    for _ in range(VIEWS):
        view = sample(1, config.cameras, generator).to(mesh.vertices.device)
        rays = view.rays(side)
        hits = trace(visibility, mesh.vertices, mesh.faces, *rays)
        shown = field.render_rays(*rays, background="black")
        opacity = shown.opacity.permute(0, 2, 3, 1).reshape(-1)[hits.pixel]
        colour = shown.rgb.permute(0, 2, 3, 1).reshape(-1, 3)[hits.pixel] / opacity[:, None].clamp(min=1e-6)
        to_camera = -rays[1].reshape(-1, 3)[hits.pixel]
        facing = (normals[hits.face] * to_camera).sum(-1)
        points, smooth = (
            interpolate(values, mesh.faces, hits.face, hits.barycentrics) for values in (mesh.vertices, at_vertices)
        )
        weights = opacity * facing.clamp(0, 1)
        parts.append((points, colour.clamp(0, 1), weights, normalize(smooth, dim=-1), to_camera))
    return ShownColours(*(torch.cat(column) for column in zip(*parts)))


def fit_colours(
    field: RadianceField, mesh: TexturedMesh, config: TextureConfig, generator: torch.Generator | None = None
) -> None:
    """Train the colours or the materials of a mesh so that it shows the colours that the field shows.

    Each step minimises the weighted mean squared error at random points, with the learning rates of the texture stage,
    which decay linearly to a tenth.

    Args:
        field: The radiance field, which may be the one that holds the mesh's colours.
        mesh: The mesh, whose colours have parameters.
        config: Parameters of the texture stage; `fit_steps` is the number of steps.
        generator: Source of the cameras and of the points.
    """
    if config.fit_steps == 0:
        return
    target = shown_colours(field, mesh, config, generator)
    if len(target.points) == 0:
        return
    optimizer = torch.optim.Adam(mesh.parameter_groups(), betas=(0.9, 0.99), eps=1e-15)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(config.fit_steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - 0.9 * step / config.fit_steps)
        rows = torch.randint(len(target.points), (BATCH,), generator=generator).to(target.points.device)
        shown = mesh.appearance(target.points[rows], target.normals[rows], target.to_camera[rows])
        error = (shown - target.colours[rows]).square().mean(1)
        weights = target.weights[rows]
        loss = (weights * error).sum() / weights.sum().clamp(min=1e-6)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
