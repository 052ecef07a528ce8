"""How near are two sets of pictures, and are some of them copies? On features or pixels given as rows."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to rows (N, D) and (M, D); N, M > 1.

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al., 1706.08500, eq. 6), in float64. The
    fit is biased upwards by about D / N: compare sets of one size.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr (A B)^(1/2) is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric.
    root = _sqrt(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def nearest_distances(queries: Tensor, references: Tensor, chunk: int = 4096) -> Tensor:
    """Euclidean distance (N,) of each row of (N, D) to the nearest row of (M, D)."""
    nearest = torch.full((len(queries),), torch.inf)
    for some in references.split(chunk):
        nearest = torch.minimum(nearest, torch.cdist(queries, some).amin(1))
    return nearest


def _sqrt(symmetric: Tensor) -> Tensor:
    """The square root of a positive semi-definite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
