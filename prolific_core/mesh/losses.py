"""What keeps an optimised surface smooth."""

import torch
from torch import Tensor

from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import face_normals, gather_rows


def face_pairs(faces: Tensor, edges: Edges | None = None) -> Tensor:
    """Pairs of faces that share an edge: (P, 2) int64. Edges of one face, or of three, give none."""
    edges = edges or Edges.of(faces)
    order = edges.side_edge.argsort(stable=True)
    edge = edges.side_edge[order]
    face = order % max(len(faces), 1)  # sides are listed edge kind by edge kind
    count = torch.bincount(edge, minlength=len(edges.ends))
    face = face[count[edge] == 2]
    return face.view(-1, 2)


def normal_consistency(vertices: Tensor, faces: Tensor, edges: Edges | None = None) -> Tensor:
    """Mean over pairs of adjacent faces of 1 - cosine of the angle between them.

    0 for a plane, 1 where faces meet at a right angle, at most 2. Faces without
    area count as 1, without gradient.
    """
    pairs = face_pairs(faces, edges)
    if len(pairs) == 0:
        return vertices.sum() * 0
    normals = face_normals(vertices, faces)
    normals = normals / (normals.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    a, b = gather_rows(normals, pairs.reshape(-1)).view(-1, 2, 3).unbind(1)
    return (1 - (a * b).sum(-1)).mean()


def laplacian_smoothness(vertices: Tensor, faces: Tensor, edges: Edges | None = None) -> Tensor:
    """Mean squared distance of a vertex from the mean of its neighbours, in units of `vertices` squared.

    The uniform Laplacian (Nealen et al. 2006). Vertices on an open boundary,
    whose ring is not whole, and vertices of no face are left out; 0 for a
    regular grid of a plane.
    """
    if len(faces) == 0:
        return vertices.sum() * 0
    edges = edges or Edges.of(faces)
    both = torch.cat([edges.ends, edges.ends.flip(1)])
    degree = torch.bincount(both[:, 0], minlength=len(vertices))
    total = torch.zeros_like(vertices).index_add(0, both[:, 0], gather_rows(vertices, both[:, 1].contiguous()))
    open_edge = torch.bincount(edges.side_edge, minlength=len(edges.ends)) == 1
    interior = degree > 0
    interior[edges.ends[open_edge].reshape(-1)] = False
    difference = vertices - total / degree.clamp(min=1).unsqueeze(-1)
    return difference[interior].square().sum(-1).sum() / interior.sum().clamp(min=1)
