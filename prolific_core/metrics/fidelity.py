"""Distances between two sets of images, and from each image to its nearest reference.

The distances are computed on features or pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def frechet_distance(a: Float[Tensor, "n dimensions"], b: Float[Tensor, "m dimensions"]) -> float:
    """Compute the squared Frechet distance between Gaussians fitted to two sets (FID).

    The distance is |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) with means mu and covariances A and B (Heusel et al.
    2017, arXiv 1706.08500, eq. 6), computed in float64. It has a positive bias of about D / N, so only results for sets
    of the same size should be compared.

    Args:
        a: Features (N, D) of the first set, N > 1.
        b: Features (M, D) of the second set, M > 1.

    Returns:
        The distance, which is nonnegative up to rounding error.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr (A B)^(1/2) is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric.
    root = _sqrt(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def kernel_distance(a: Float[Tensor, "n dimensions"], b: Float[Tensor, "m dimensions"]) -> float:
    """Compute the kernel distance between two sets (KID).

    The distance is the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, arXiv
    1801.01401, sec. 4), computed in float64. Unlike the Frechet distance, it does not require sets that are much larger
    than D. The estimator is unbiased, so the result may be slightly negative.

    Args:
        a: Features (N, D) of the first set, N > 1.
        b: Features (M, D) of the second set, M > 1.

    Returns:
        The distance.
    """
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def nearest_distances(
    queries: Float[Tensor, "n dimensions"], references: Float[Tensor, "m dimensions"], chunk: int = 4096
) -> Float[Tensor, " n"]:
    """Compute the Euclidean distance from each query to its nearest reference.

    Args:
        queries: Features (N, D).
        references: Features (M, D).
        chunk: Number of references that are processed at once.

    Returns:
        The distances (N,).
    """
    nearest = torch.full((len(queries),), torch.inf)
    for some in references.split(chunk):
        nearest = torch.minimum(nearest, torch.cdist(queries, some).amin(1))
    return nearest


def _sqrt(symmetric: Tensor) -> Tensor:
    """Return the square root of a positive semi-definite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
