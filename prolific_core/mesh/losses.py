"""Regularisation losses that keep an optimised surface smooth."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import face_normals, gather_rows


def face_pairs(faces: Int[Tensor, "faces 3"], edges: Edges | None = None) -> Int[Tensor, "pairs 2"]:
    """Find the pairs of faces that share an edge.

    Args:
        faces: Vertex indices (F, 3).
        edges: Result of `Edges.of(faces)`; computed if None.

    Returns:
        Face indices (P, 2), int64. Edges that do not belong to exactly two faces are ignored.
    """
    edges = edges or Edges.of(faces)
    order = edges.side_edge.argsort(stable=True)
    edge = edges.side_edge[order]
    face = order % max(len(faces), 1)  # Side s of face f has the index s * F + f.
    count = torch.bincount(edge, minlength=len(edges.ends))
    face = face[count[edge] == 2]
    return face.view(-1, 2)


def normal_consistency(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], edges: Edges | None = None
) -> Float[Tensor, ""]:
    """Compute the mean of 1 - cos(angle between the normals) over all pairs of adjacent faces.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        edges: Result of `Edges.of(faces)`; computed if None.

    Returns:
        A scalar in [0, 2]: 0 for a plane, 1 if all adjacent faces meet at a right angle. A pair that contains a face
        without area counts as 1 and has no gradient.
    """
    pairs = face_pairs(faces, edges)
    if len(pairs) == 0:
        return vertices.sum() * 0
    normals = face_normals(vertices, faces)
    normals = normals / (normals.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    a, b = gather_rows(normals, pairs.reshape(-1)).view(-1, 2, 3).unbind(1)
    return (1 - (a * b).sum(-1)).mean()


def laplacian_smoothness(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], edges: Edges | None = None
) -> Float[Tensor, ""]:
    """Compute the mean squared distance between each vertex and the mean of its neighbours.

    This is the squared norm of the uniform Laplacian (Nealen et al. 2006). Vertices on an open boundary, whose ring of
    neighbours is incomplete, and vertices without faces are ignored.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        edges: Result of `Edges.of(faces)`; computed if None.

    Returns:
        A scalar in the squared unit of `vertices`; 0 for a regular grid in a plane.
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
