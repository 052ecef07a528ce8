"""Classifier two-sample test: how well can a classifier tell generated images from true ones?

It is trained on a part of both sets and evaluated on the rest (Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample
Tests", arXiv 1610.06545). An accuracy of 0.5 means that it cannot tell them apart.

A thousand images are too few to train a network on their pixels. The classifier is therefore a logistic regression on
two kinds of features: statistics of the edges, in which grain and blur show, and activations of the classifier of the
Toybox, which is frozen, in which wrong shapes show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from prolific_core.toybox.evaluation.classifier import Classifier

FOLDS, SEEDS = 5, 3
STRENGTH = 0.01  # inverse of the weight of the L2 penalty, for features with unit variance
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.995)


def features(classifier: Classifier, images: Float[Tensor, "images 3 64 64"]) -> Float[np.ndarray, "images features"]:
    """Compute the features that two sets of images are compared by.

    Args:
        classifier: Classifier that was trained on true renders only.
        images: sRGB in [0, 1].

    Returns:
        The features of `edge_statistics` and `activation_statistics`.
    """
    parts = [torch.cat([edge_statistics(x), activation_statistics(classifier, x)], 1) for x in images.split(128)]
    return torch.cat(parts).numpy()


def edge_statistics(images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images statistics"]:
    """Compute the distribution of first and second derivatives, at the full and at half the resolution.

    Args:
        images: sRGB in [0, 1].

    Returns:
        For each channel and derivative, the logarithm of the quantiles of its magnitude, and its mean and standard
        deviation.
    """
    found = []
    for scaled in (images, F.avg_pool2d(images, 2)):
        for derivative in _derivatives(scaled):
            size = derivative.abs().flatten(2)
            quantiles = size.quantile(torch.tensor(QUANTILES), 2)
            found += [*(quantiles + 1e-3).log(), size.mean(2), size.std(2)]
    return torch.cat(found, 1)


def _derivatives(x: Tensor) -> Iterator[Tensor]:
    """Yield the differences along x and along y, and the Laplacian."""
    yield x[:, :, :, 1:] - x[:, :, :, :-1]
    yield x[:, :, 1:] - x[:, :, :-1]
    centre = x[:, :, 1:-1, 1:-1]
    yield 4 * centre - x[:, :, :-2, 1:-1] - x[:, :, 2:, 1:-1] - x[:, :, 1:-1, :-2] - x[:, :, 1:-1, 2:]


def activation_statistics(
    classifier: Classifier, images: Float[Tensor, "images 3 64 64"]
) -> Float[Tensor, "images statistics"]:
    """Compute statistics of the classifier's activations at all of its levels.

    Args:
        classifier: Classifier that was trained on true renders only.
        images: sRGB in [0, 1].

    Returns:
        The mean, largest and smallest value and standard deviation of each channel. A flaw may be anywhere in an image,
        and the mean alone hides it.
    """
    x, found = images * 2 - 1, []
    with torch.no_grad():
        for block in classifier.network.body:
            x = block(x)
            found += [x.mean((2, 3)), x.amax((2, 3)), x.amin((2, 3)), x.std((2, 3))]
    return torch.cat(found, 1)


def accuracy(
    classifier: Classifier,
    made: Float[Tensor, "images 3 64 64"],
    truth: Float[Tensor, "images 3 64 64"],
    seeds: int = SEEDS,
    progress: Callable[[], None] = lambda: None,
) -> float:
    """Compute the accuracy with which two sets of images can be told apart.

    Both sets are divided into `FOLDS` folds, and each fold is classified by a logistic regression on the others. Images
    with the same index are in the same fold, so no regression has seen the caption of an image that it classifies.

    Args:
        classifier: Classifier that was trained on true renders only.
        made: Generated images in [0, 1].
        truth: True images of the same captions, in the same order.
        seeds: Number of repetitions with other folds.
        progress: Callback that is called after each regression.

    Returns:
        The largest accuracy of all repetitions, each the mean over its folds.
    """
    both = features(classifier, made), features(classifier, truth)
    return max(_repetition(*both, seed, progress) for seed in range(seeds))


def _repetition(made: np.ndarray, truth: np.ndarray, seed: int, progress: Callable[[], None]) -> float:
    """Return the mean accuracy over the folds of one seed."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order, right = np.random.default_rng(seed).permutation(len(made)), []
    for fold in range(FOLDS):
        test, rest = order[fold::FOLDS], np.concatenate([order[k::FOLDS] for k in range(FOLDS) if k != fold])
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
        regression.fit(*_both(made, truth, rest))
        right.append(regression.score(*_both(made, truth, test)))
        progress()
    return float(np.mean(right))


def _both(made: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the given rows of both sets, and 1 for each generated image and 0 for each true one."""
    return np.concatenate([made[rows], truth[rows]]), np.repeat([1, 0], len(rows))
