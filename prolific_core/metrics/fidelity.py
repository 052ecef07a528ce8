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


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Kernel distance (KID) of rows (N, D) and (M, D); N, M > 1. Unbiased, so it may be a little below zero.

    The squared maximum mean discrepancy with the kernel (x . y / D + 1)^3 (Binkowski et al., 1801.01401,
    sec. 4), in float64. Unlike Frechet's it needs no many more rows than D.
    """
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


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
