"""Tests of whether points are inside a closed mesh, by its winding number.

The winding number is 0 outside a closed mesh and at least 1 inside it, also if parts of the mesh overlap or touch.
"""

# Warp kernels are annotated with Warp's own types, which type checkers reject.
# pyright: basic, reportInvalidTypeForm=false, reportAttributeAccessIssue=false

import math
from typing import no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prolific_core.render import warp_launch

wp = warp_launch.warp()


def winding_reference(
    points: Float[Tensor, "points 3"], corners: Float[Tensor, "faces 3 3"], chunk: int = 2_000_000
) -> Float[Tensor, " points"]:
    """Compute winding numbers by summing over every face in plain PyTorch.

    A winding number is the sum of the signed solid angles of all faces, divided by 4 pi (Van Oosterom and Strackee
    1983, eq. 8).

    Args:
        points: World points (N, 3).
        corners: Corners (F, 3, 3) of the faces, counter-clockwise as seen from outside.
        chunk: Number of pairs of points and faces that are evaluated at once.

    Returns:
        The winding numbers (N,).
    """
    total = []
    for piece in points.split(max(1, chunk // len(corners))):
        a, b, c = (corners[None] - piece[:, None, None]).unbind(2)
        la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        edges = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        total.append(torch.atan2(volume, edges).sum(1) / (2 * math.pi))
    return torch.cat(total)


@no_type_check
@wp.kernel(enable_backward=False)
def _count_crossings(mesh: wp.uint64, points: wp.array(dtype=wp.vec3), top: float, faces_met: wp.array(dtype=wp.int32)):
    """Add the signs of all faces above each point: 1 for a face seen from inside, -1 for one seen from outside."""
    i = wp.tid()
    p = points[i]
    query = wp.mesh_query_aabb(mesh, p, wp.vec3(p[0], p[1], top))
    face = int(0)  # noqa: UP018 (Warp needs a variable)
    count = int(0)  # noqa: UP018
    while wp.mesh_query_aabb_next(query, face):
        a = wp.mesh_eval_position(mesh, face, 1.0, 0.0) - p
        b = wp.mesh_eval_position(mesh, face, 0.0, 1.0) - p
        c = wp.mesh_eval_position(mesh, face, 0.0, 0.0) - p
        # Twice the signed areas of the triangles between the point and the edges, as seen from above.
        u = b[0] * c[1] - b[1] * c[0]
        v = c[0] * a[1] - c[1] * a[0]
        w = a[0] * b[1] - a[1] * b[0]
        height = u * a[2] + v * b[2] + w * c[2]
        if u > 0.0 and v > 0.0 and w > 0.0 and height > 0.0:
            count += 1
        if u < 0.0 and v < 0.0 and w < 0.0 and height < 0.0:
            count -= 1
    faces_met[i] = count


def is_inside(
    points: Float[Tensor, "points 3"], vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Bool[Tensor, " points"]:
    """Return whether points are inside a closed mesh, that is, whether their winding number is positive.

    The winding number is counted on a ray upwards, as the number of faces through which the ray leaves the mesh minus
    the number through which it enters. Rays that meet an edge exactly are counted wrongly; random points have none.

    Args:
        points: World points (N, 3) on the CPU.
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3), F > 0, counter-clockwise as seen from outside.

    Returns:
        A mask (N,).
    """
    mesh = wp.Mesh(
        points=wp.array(vertices.detach().float().cpu().numpy(), dtype=wp.vec3, device="cpu"),
        indices=wp.array(faces.detach().int().cpu().numpy().ravel(), dtype=wp.int32, device="cpu"),
    )
    points, count = points.float().contiguous(), torch.empty(len(points), dtype=torch.int32)
    values = [mesh.id, (points, wp.vec3), float(vertices[:, 2].max()) + 1, count]
    warp_launch.launch(_count_crossings, len(points), values, torch.device("cpu"))
    return count > 0
