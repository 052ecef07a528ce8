"""Distances between sets of images, compared with closed forms."""

import torch

from prolific_core.metrics.fidelity import frechet_distance, nearest_distances


def test_frechet_of_shifted_and_scaled_gaussians():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=g, dtype=torch.float64)
    assert abs(frechet_distance(x, x)) < 1e-9
    assert abs(frechet_distance(x, x + 3) - 4 * 9) < 1e-8
    # Covariances C and 4 C: tr(C + 4 C - 2 * 2 C) = tr C; the mean of 2 x is twice that of x.
    expected = torch.cov(x.T).trace() + x.mean(0).square().sum()
    assert abs(frechet_distance(x, 2 * x) - expected) < 1e-8
    a, b = x[:250] @ torch.randn(4, 4, generator=g, dtype=torch.float64), x[250:]
    assert abs(frechet_distance(a, b) - frechet_distance(b, a)) < 1e-8


def test_frechet_of_degenerate_sets_is_finite():
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    assert 0 <= frechet_distance(x, x + 1) < 16.1


def test_nearest_distances_do_not_depend_on_the_chunk_size():
    g = torch.Generator().manual_seed(2)
    a, b = torch.randn(20, 3, generator=g), torch.randn(50, 3, generator=g)
    brute = (a[:, None] - b[None]).norm(dim=-1).amin(1)
    assert torch.allclose(nearest_distances(a, b, chunk=7), brute, atol=1e-5)
    assert nearest_distances(b[:5], b).max() < 1e-3
