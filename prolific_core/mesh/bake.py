"""A colour field into a texture: each texel asks the field at its own place on the surface."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def texel_positions(
    vertices: Tensor, faces: Tensor, uvs: Tensor, size: int, chunk: int = 4_000_000
) -> tuple[Tensor, Tensor]:
    """Where on the surface the centres of texels lie.

    vertices (V, 3); faces (F, 3); uvs (V, 2) in [0, 1], v up. Texel (row, column)
    has its centre at u = (column + 0.5) / size, v = 1 - (row + 0.5) / size.
    Returns covered texels (N,) as rising indices row * size + column, and their
    world points (N, 3). Where charts overlap the lowest face has the texel.
    """
    corners = torch.stack([uvs[:, 0] * size, (1 - uvs[:, 1]) * size], dim=-1)[faces].double()
    low = (corners.amin(1) - 0.5).ceil().clamp(0, size).long()
    high = (corners.amax(1) - 0.5).floor().clamp(-1, size - 1).long()
    extent = (high - low + 1).clamp(min=0)
    count = extent.prod(1)
    owner = torch.full((size * size,), len(faces), dtype=torch.int64)
    # Pieces of the face list with at most `chunk` texels in their boxes.
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
    """Texels whose centres lie in these faces (N,), and the faces they lie in (N,)."""
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
    """Weights (N, 3) of the corners (N, 3, 2) at points (N, 2); a face without area contains nothing."""
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
    vertices: np.ndarray,
    faces: np.ndarray,
    uvs: np.ndarray,
    texture_size: int,
    *,
    device="cpu",
    chunk: int = 65536,
) -> np.ndarray:
    """A texture (T, T, 3) float32 in [0, 1], row 0 the top (v = 1).

    colour_fn: (N, 3) world points -> (N, 3) in [0, 1], asked `chunk` points at a
    time. vertices, faces, uvs: of the cut mesh (`unwrap.UnwrappedMesh`). Texels
    outside all charts take the colour of the nearest covered one, so neither
    interpolation nor mip levels bring anything foreign across a seam. Raises
    ValueError if no texel's centre lies in a chart.
    """
    from scipy.ndimage import distance_transform_edt

    as_tensor = torch.as_tensor
    texel, points = texel_positions(
        as_tensor(vertices).float(), as_tensor(faces).long(), as_tensor(uvs).float(), texture_size
    )
    if len(texel) == 0:
        raise ValueError(f"no texel of a {texture_size} x {texture_size} texture lies in a chart: make it larger")
    colours = [colour_fn(p.to(device)).float().cpu() for p in points.split(chunk)]
    image = torch.zeros(texture_size * texture_size, 3)
    image[texel] = torch.cat(colours).clamp(0, 1)
    empty = np.ones(texture_size * texture_size, bool)
    empty[texel.numpy()] = False
    nearest = distance_transform_edt(
        empty.reshape(texture_size, texture_size), return_distances=False, return_indices=True
    )
    return image.view(texture_size, texture_size, 3).numpy()[tuple(nearest)]
