"""Packing of charts into a square texture.

The charts are placed one after another, the largest first, each in the orientation and at the position that ends
lowest. Positions where a chart overlaps no other one are found for the whole texture at once, as the zeros of the
correlation of two masks. Small charts therefore fill the hollows and holes of large ones. xatlas packs less densely,
because it tries only two orientations.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_dilation

#: The masks have at most this number of cells per side, which bounds the time of a placement.
CELLS = 512
#: Number of orientations of a chart. Charts below SMALL of the texture's area, of which there are many, have two.
ORIENTATIONS, SMALL = 8, 0.001
#: Fraction of the texture that the charts cover in the first attempt, and below which there are no more attempts.
FIRST_FRACTION, LAST_FRACTION = 0.7, 0.1
#: The time grows with the number of charts, so more charts than this are not packed.
MAX_CHARTS = 2000


@dataclass(frozen=True)
class _Chart:
    vertices: Int[np.ndarray, " vertices"]
    triangles: Float[np.ndarray, "faces 3 2"]
    area: float
    length: float


@dataclass(frozen=True)
class _Place:
    end: int
    row: int
    column: int
    mask: Bool[np.ndarray, "height width"]
    rotation: Float[np.ndarray, "2 2"]
    corner: Float[np.ndarray, " 2"]


def pack(
    uvs: Float[np.ndarray, "vertices 2"], faces: Int[np.ndarray, "faces 3"], size: int, margin: int = 1
) -> Float[np.ndarray, "vertices 2"] | None:
    """Rotate, scale and move charts so that they cover as much of a square texture as possible.

    All charts are scaled by the same factor. The same charts always give the same result.

    Args:
        uvs: Texture coordinates (V, 2) in any unit; the charts may overlap. Charts share no vertices.
        faces: Vertex indices (F, 3).
        size: Height and width of the texture in texels.
        margin: Minimum distance in texels of a chart from the middle between it and another chart, and from the border.

    Returns:
        Texture coordinates (V, 2) in [0, 1], float32, or None if the charts do not fit or are too many.
    """
    charts = _split(uvs, faces)
    total = sum(chart.area for chart in charts)
    if len(charts) > MAX_CHARTS or total <= 0:
        return None
    fraction = FIRST_FRACTION
    while fraction > LAST_FRACTION:
        scale = size * np.sqrt(fraction / total)
        places, height = _place(charts, scale, size, margin)
        if height <= 1:
            packed = np.zeros_like(uvs, dtype=np.float64)
            for chart, place in zip(charts, places, strict=True):
                packed[chart.vertices] = uvs[chart.vertices] @ place.rotation.T + place.corner
            return (packed / size).astype(np.float32)
        # The charts reach above the texture by about as much as their area is too large. The steps are small, because a
        # chart that does not fit says little about how much must be changed.
        fraction *= min(max(1 / height, 0.95), 0.985)
    return None


def _split(uvs: np.ndarray, faces: np.ndarray) -> list[_Chart]:
    """Return the connected components of faces, those with the largest bounding boxes first."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(uvs),) * 2)
    count, label = connected_components(links, directed=False)
    charts = []
    for index in range(count):
        triangles = uvs[faces[label[faces[:, 0]] == index]].astype(np.float64)
        if len(triangles) == 0:
            continue
        u, v = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
        area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() / 2
        charts.append(_Chart((label == index).nonzero()[0], triangles, area, np.ptp(triangles, axis=(0, 1)).max()))
    return sorted(charts, key=lambda chart: -chart.length)


def _place(charts: list[_Chart], scale: float, size: int, margin: int) -> tuple[list[_Place], float]:
    """Place charts in a strip as wide as the texture.

    Returns:
        The places and the height of the strip divided by the size of the texture. If a chart does not fit, the height
        is that of the part of the strip that is tried.
    """
    cell = -(-size // CELLS)
    width = size // cell
    rows = int(scipy.fft.next_fast_len(width + width // 4, real=True))  # pyright: ignore[reportArgumentType]
    taken = np.zeros((rows, width), np.float32)
    places = []
    for chart in charts:
        count = ORIENTATIONS if chart.area * scale**2 > SMALL * size**2 else 2
        spectrum = scipy.fft.rfft2(taken)
        found = [
            place
            for angle in np.arange(count) * (2 * np.pi / max(count, 4))
            if (place := _lowest(chart, angle, scale, spectrum, taken.shape, margin, cell))
        ]
        if not found:
            return places, rows / width
        best = min(found, key=lambda place: place.end)
        height, length = best.mask.shape
        taken[best.row : best.row + height, best.column : best.column + length] += best.mask
        places.append(best)
    return places, max(place.end for place in places) / width


def _lowest(chart, angle, scale, spectrum, shape, margin, cell) -> _Place | None:
    """Return the lowest free position of a chart that is rotated by an angle, or None if there is none."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    triangles = chart.triangles @ rotation.T
    low = triangles.min((0, 1))
    mask = _mask(triangles - low + margin, margin, cell)
    height, length = mask.shape
    if height > shape[0] or length > shape[1]:
        return None
    padded = np.zeros(shape, np.float32)
    padded[:height, :length] = mask
    overlap = np.asarray(scipy.fft.irfft2(spectrum * np.asarray(scipy.fft.rfft2(padded)).conj(), s=shape))
    free = overlap[: shape[0] - height + 1, : shape[1] - length + 1] < 0.5
    if not free.any():
        return None
    row = int(free.any(1).argmax())
    column = int(free[row].argmax())
    corner = np.array([column, row]) * cell + margin - low
    return _Place(row + height, row, column, mask, rotation, corner)


def _mask(triangles: np.ndarray, margin: int, cell: int) -> np.ndarray:
    """Return the cells that contain a texel at most `margin` texels away from one that triangles (F, 3, 2) touch."""
    from PIL import Image, ImageDraw

    width, height = (np.floor(triangles.max((0, 1))).astype(int) + 1 + margin).tolist()
    # Corners are rounded to half a texel, so that no texel whose centre is covered is missed.
    image = Image.new("L", (-(-width // cell) * cell * 2, -(-height // cell) * cell * 2))
    draw = ImageDraw.Draw(image)
    for corners in np.floor(2 * triangles).astype(int).reshape(-1, 6).tolist():
        draw.polygon(corners, fill=1, outline=1)
    touched = _reduce(np.array(image, bool), 2)
    return _reduce(binary_dilation(touched, np.ones((3, 3), bool), iterations=margin), cell)


def _reduce(mask: np.ndarray, factor: int) -> np.ndarray:
    """Return whether each block of factor x factor elements contains True."""
    height, width = mask.shape
    return np.asarray(mask.reshape(height // factor, factor, width // factor, factor).any((1, 3)))
