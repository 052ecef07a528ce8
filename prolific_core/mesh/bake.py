"""Baking of a field of colours or materials into a texture.

The field is evaluated at the surface point of each covered texel.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def texel_positions(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    uvs: Float[Tensor, "vertices 2"],
    size: int,
    chunk: int = 4_000_000,
) -> tuple[Int[Tensor, " texels"], Float[Tensor, "texels 3"]]:
    """Compute the surface points that correspond to the centres of texels.

    The centre of texel (row, column) is at u = (column + 0.5) / size, v = 1 - (row + 0.5) / size.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        uvs: Texture coordinates (V, 2) in [0, 1], with v pointing up.
        size: Height and width of the texture in texels.
        chunk: Approximate number of texels that are tested at once.

    Returns:
        The indices (N,) of the covered texels and the corresponding world points (N, 3). Indices are
        row * size + column, in ascending order. A texel that is covered by several faces belongs to the face with the
        lowest index.
    """
    corners = torch.stack([uvs[:, 0] * size, (1 - uvs[:, 1]) * size], dim=-1)[faces].double()
    low = (corners.amin(1) - 0.5).ceil().clamp(0, size).long()
    high = (corners.amax(1) - 0.5).floor().clamp(-1, size - 1).long()
    extent = (high - low + 1).clamp(min=0)
    count = extent.prod(1)
    owner = torch.full((size * size,), len(faces), dtype=torch.int64)
    # To limit memory use, process the faces in groups whose bounding boxes contain about `chunk` texels.
    piece = torch.div(count.cumsum(0), chunk, rounding_mode="floor")
    for value in piece.unique().tolist():
        face = (piece == value).nonzero().squeeze(1)
        texel, owned = _texels_of(corners, face, low, extent, count, size)
        owner.scatter_reduce_(0, texel, owned, "amin")
    texel = (owner < len(faces)).nonzero().squeeze(1)
    face = owner[texel]
    weights = _barycentrics(corners[face], _centres(texel, size))
    return texel, (vertices.double()[faces[face]] * weights[..., None]).sum(1).to(vertices)


def _texels_of(corners, face, low, extent, count, size) -> tuple[Tensor, Tensor]:
    """Return the texels (N,) whose centres lie in the given faces, and the face (N,) that contains each centre."""
    row = torch.repeat_interleave(face, count[face])
    start = torch.repeat_interleave(count[face].cumsum(0) - count[face], count[face])
    offset = torch.arange(len(row)) - start
    width = extent[row, 0]
    column = low[row, 0] + offset % width
    line = low[row, 1] + torch.div(offset, width, rounding_mode="floor")
    texel = line * size + column
    inside = (_barycentrics(corners[row], _centres(texel, size)) >= -1e-9).all(1)
    return texel[inside], row[inside]


def _centres(texel: Tensor, size: int) -> Tensor:
    return torch.stack([texel % size, torch.div(texel, size, rounding_mode="floor")], -1).double() + 0.5


def _barycentrics(corners: Tensor, points: Tensor) -> Tensor:
    """Return the barycentric weights (N, 3) of points (N, 2) in faces (N, 3, 2).

    All weights are -1 for faces without area.
    """
    a, b, c = corners.unbind(1)

    def cross(p, q):
        return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

    area = cross(b - a, c - a)
    wb, wc = cross(points - a, c - a) / area, cross(b - a, points - a) / area
    weights = torch.stack([1 - wb - wc, wb, wc], dim=-1)
    return torch.where(area.abs()[:, None] > 1e-12, weights, torch.full_like(weights, -1.0))


@torch.no_grad()
def bake(
    colour_fn: Callable[[Tensor], Tensor],
    vertices: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    uvs: Float[np.ndarray, "vertices 2"],
    texture_size: int,
    *,
    device: str | torch.device = "cpu",
    chunk: int = 65536,
) -> Float[np.ndarray, "texture_size texture_size channels"]:
    """Bake a field of colours or materials into a texture.

    Texels outside all charts are filled with the colour of the nearest covered texel. Interpolation and mip levels
    therefore do not blend unrelated colours at the seams.

    Args:
        colour_fn: Function from world points (N, 3) to colours (N, 3) in [0, 1], or to values of C channels.
        vertices: Vertex positions (V, 3) of the unwrapped mesh; see `unwrap.UnwrappedMesh`.
        faces: Vertex indices (F, 3).
        uvs: Texture coordinates (V, 2) in [0, 1], with v pointing up.
        texture_size: Height and width T of the texture in texels.
        device: Device on which `colour_fn` is evaluated.
        chunk: Number of points at which `colour_fn` is evaluated at once.

    Returns:
        The texture (T, T, C), float32 in [0, 1]; row 0 is the top (v = 1).

    Raises:
        ValueError: If no texel centre lies in a chart.
    """
    from scipy.ndimage import distance_transform_edt

    as_tensor = torch.as_tensor
    texel, points = texel_positions(
        as_tensor(vertices).float(), as_tensor(faces).long(), as_tensor(uvs).float(), texture_size
    )
    if len(texel) == 0:
        raise ValueError(f"texture_size must be larger than {texture_size}: no texel centre lies in a chart")
    colours = torch.cat([colour_fn(p.to(device)).float().cpu() for p in points.split(chunk)])
    image = torch.zeros(texture_size * texture_size, colours.shape[1])
    image[texel] = colours.clamp(0, 1)
    empty = np.ones(texture_size * texture_size, bool)
    empty[texel.numpy()] = False
    row, column = distance_transform_edt(  # pyright: ignore[reportGeneralTypeIssues]
        empty.reshape(texture_size, texture_size), return_distances=False, return_indices=True
    )
    return image.view(texture_size, texture_size, -1).numpy()[row, column]
