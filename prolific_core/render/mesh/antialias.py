"""Differentiable antialiasing of silhouettes by analytic coverage.

The method is that of Laine et al. 2020, "Modular primitives for high-performance differentiable rendering" (arXiv
2011.03277), section 3.4. Where a silhouette edge crosses the segment between two neighbouring pixel centres, the
position of the crossing determines how far the nearer surface extends towards the other pixel, and the two pixels are
blended accordingly. A crossing at the midpoint changes nothing. A crossing closer to the far pixel's centre adds some
of the near colour to the far pixel, and a crossing closer to the near pixel's centre does the reverse.

The implementation differs from the paper in two ways. The paper iterates over pixel pairs and considers only the edges
of the triangle that was hit, so it misses silhouettes of triangles smaller than a pixel. This implementation iterates
over the mesh's silhouette edges and the pixel pairs that they cross. In addition, if the weights at a pixel add up to
more than one, as for objects smaller than a pixel, they are scaled to sum to one, so that colours stay in their range.

An edge that is closer to vertical than to horizontal is used only for horizontally adjacent pixels, and any other edge
only for vertically adjacent pixels. An edge segment of length L that moves by d along its normal then changes the total
coverage by the correct amount L d. With both kinds of pairs, the change would be counted twice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.render.mesh.raster import Hits, Pinhole, gather_rows


@dataclass(frozen=True)
class Edges:
    """Undirected edges of a mesh.

    Example:
        >>> Edges.of(torch.tensor([[0, 1, 2]])).ends
        tensor([[0, 1],
                [0, 2],
                [1, 2]])

    Attributes:
        ends: The two vertices (E, 2) of each edge.
        side_edge: Index (3F,) of the edge at each side of the faces.
        side_vertex: Index (3F,) of the vertex opposite each side.
    """

    ends: Int[Tensor, "edges 2"]
    side_edge: Int[Tensor, " sides"]
    side_vertex: Int[Tensor, " sides"]

    @classmethod
    def of(cls, faces: Int[Tensor, "faces 3"]) -> "Edges":
        """Compute the edges of faces (F, 3)."""
        pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(dim=1).values
        size = int(faces.max()) + 1 if len(faces) else 1
        key, edge = (pairs[:, 0] * size + pairs[:, 1]).unique(return_inverse=True)
        ends = torch.stack([torch.div(key, size, rounding_mode="floor"), key % size], dim=1)
        return cls(ends, edge, torch.cat([faces[:, 2], faces[:, 0], faces[:, 1]]))


def antialias(
    image: Float[Tensor, "batch channels height width"],
    hits: Hits,
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    origins: Float[Tensor, "batch height width 3"],
    directions: Float[Tensor, "batch height width 3"],
    edges: Edges | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Blend silhouettes by coverage, with gradients for `vertices` and `image`.

    Args:
        image: Images (B, C, H, W) with one sample per pixel, composited over their background. The channels
            may include a binary opacity.
        hits: The result of `trace` for the same rays.
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        origins: Origins (B, H, W, 3) of the rays of pinhole cameras.
        directions: Unit directions (B, H, W, 3).
        edges: Precomputed `Edges.of(faces)`, which can be reused while the faces do not change. If None, the edges are
            computed.

    Returns:
        Images (B, C, H, W); pixels that no silhouette crosses are unchanged.
    """
    b, channels, h, w = image.shape
    if len(hits.pixel) == 0:
        return image
    edges = edges or Edges.of(faces)
    camera = Pinhole.from_rays(origins, directions)
    screen = camera.project(vertices)
    depth = _depth(hits, camera, directions)
    silhouette, inner_high = _silhouettes(screen.detach(), edges)

    parts = [_crossings(screen, edges, silhouette, inner_high, depth, axis, (h, w)) for axis in (0, 1)]
    near, far, reach = (torch.cat(column) for column in zip(*parts))
    if len(near) == 0:
        return image
    flat = image.permute(0, 2, 3, 1).reshape(b * h * w, channels)
    beyond = reach.detach() > 0.5
    target, source = torch.where(beyond, far, near), torch.where(beyond, near, far)
    weight = (reach - 0.5).abs()
    total = weight.new_zeros(b * h * w).index_add(0, target, weight).clamp(min=1)
    weight = weight / total[target]
    blended = flat.index_add(0, target, weight[:, None] * (gather_rows(flat, source) - gather_rows(flat, target)))
    return blended.view(b, h, w, channels).permute(0, 3, 1, 2)


@torch.no_grad()
def _depth(hits: Hits, camera: Pinhole, directions: Tensor) -> Tensor:
    """Return the depth (B, H, W) along the viewing axis, infinite where nothing was hit."""
    depth = torch.full((hits.face_id.numel(),), torch.inf, device=directions.device)
    depth[hits.pixel] = hits.distance.detach()
    return depth.view(hits.face_id.shape) * (directions * camera.forward[:, None, None]).sum(-1)


@torch.no_grad()
def _silhouettes(screen: Tensor, edges: Edges):
    """Find the edges that bound the mesh on the screen, and the side on which the mesh lies.

    An edge is a silhouette if its one or two faces lie on the same side of it on the screen. The faces need not be
    oriented consistently.

    Returns:
        Two masks (B, E). The first marks silhouettes. The second marks edges whose faces lie towards larger columns or,
        if the edge is closer to horizontal than to vertical, towards larger rows.
    """
    b = len(screen)
    start, end = screen[:, edges.ends[:, 0]], screen[:, edges.ends[:, 1]]
    run = end - start
    s, r, o = start[:, edges.side_edge], run[:, edges.side_edge], screen[:, edges.side_vertex]
    # Cross product of the edge with the vector to the opposite vertex.
    side = (o[..., 0] - s[..., 0]) * r[..., 1] - (o[..., 1] - s[..., 1]) * r[..., 0]
    index = edges.side_edge.expand(b, -1)
    low = side.new_full(run.shape[:2], torch.inf).scatter_reduce(1, index, side, "amin")
    high = side.new_full(run.shape[:2], -torch.inf).scatter_reduce(1, index, side, "amax")
    nearest = torch.full_like(low, torch.inf).scatter_reduce(1, index, o[..., 2], "amin")
    in_front = torch.minimum(nearest, torch.minimum(start[..., 2], end[..., 2])) > 1e-4
    positive = (low >= 0) & (high > 0)
    silhouette = in_front & (positive | ((high <= 0) & (low < 0)))
    steep = run[..., 1].abs() >= run[..., 0].abs()
    # `side` is positive towards larger columns if the edge points down, and towards smaller rows if it points right.
    inner_high = torch.where(steep, positive == (run[..., 1] > 0), positive == (run[..., 0] < 0))
    return silhouette, inner_high


def _crossings(screen, edges: Edges, silhouette, inner_high, depth, axis: int, size):
    """Find the pixel pairs along `axis` (0: columns, 1: rows) that a visible silhouette crosses.

    Returns:
        Flat indices (K,) of the near pixels, flat indices (K,) of the far pixels, and distances (K,) in [0, 1] from the
        near pixels' centres to the edge, in pixels. The near pixel of a pair is on the mesh's side of the edge.
    """
    b, vertices = screen.shape[:2]
    h, w = size
    along, across = (0, 1) if axis == 0 else (1, 0)
    pairs, lines = (w, h) if axis == 0 else (h, w)  # pixels per scan line, and number of scan lines
    with torch.no_grad():
        run = (screen[:, edges.ends[:, 1]] - screen[:, edges.ends[:, 0]]).abs()
        steep = run[..., 1] >= run[..., 0]
        view, edge = (silhouette & (steep == (axis == 0))).nonzero(as_tuple=True)
    ends = gather_rows(screen.reshape(b * vertices, 3), (view[:, None] * vertices + edges.ends[edge]).reshape(-1))
    ends = ends.view(-1, 2, 3)
    with torch.no_grad():
        # Scan lines run through pixel centres. The interval is half-open, so that a vertex on a line belongs to only
        # one of its two edges.
        low, high = ends[..., across].amin(1), ends[..., across].amax(1)
        first = (low - 0.5).ceil().clamp(0, lines).long()
        last = (high - 0.5).ceil().clamp(0, lines).long()
        count = (last - first).clamp(min=0)
        row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        offset = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        line = first[row] + offset
    ends = gather_rows(ends, row)
    start, end = ends.unbind(1)
    fraction = (line + 0.5 - start[:, across]) / (end - start)[:, across]
    position = start[:, along] + (end - start)[:, along] * fraction - 0.5
    with torch.no_grad():
        pixel = position.floor().long()
        high_side = inner_high[view, edge][row].long()
        inside = (pixel >= 0) & (pixel <= pairs - 2)
        pixel = pixel.clamp(0, pairs - 2)
        near, far = pixel + high_side, pixel + 1 - high_side
        first_pixel = view[row] * (h * w)
        stride_along, stride_across = (1, w) if axis == 0 else (w, 1)
        near = first_pixel + line * stride_across + near * stride_along
        far = first_pixel + line * stride_across + far * stride_along
        # The inverse of the depth is linear in screen space.
        z = 1 / (1 / start[:, 2] + (1 / end[:, 2] - 1 / start[:, 2]) * fraction)
        flat = depth.reshape(-1)
        keep = inside & (flat[near] < flat[far]) & (z < flat[far])
    reach = torch.where(high_side.bool(), pixel + 1 - position, position - pixel)
    with torch.no_grad():
        # Several silhouettes may cross a pair of pixels, but only the outermost one is visible.
        farthest = reach.new_full((b * h * w,), -1.0)
        pair = near * 2 + high_side
        farthest = farthest.repeat(2).scatter_reduce(0, pair[keep], reach.detach()[keep], "amax")
        keep &= reach == farthest[pair]
        order = torch.arange(len(pair), device=pair.device)
        lowest = torch.full((2 * b * h * w,), len(pair), device=pair.device)
        lowest = lowest.scatter_reduce(0, pair[keep], order[keep], "amin")
        keep &= lowest[pair] == order
    return near[keep], far[keep], reach[keep]
