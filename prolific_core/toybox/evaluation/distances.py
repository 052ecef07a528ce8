"""Distances between samples of a prior and true renders."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.metrics.fidelity import frechet_distance, nearest_distances
from prolific_core.toybox.evaluation.classifier import Classifier
from prolific_core.toybox.world import draw as world


def frechet_ratio(
    classifier: Classifier,
    made: Float[Tensor, "images 3 64 64"],
    truth: Float[Tensor, "images 3 64 64"],
    labels: list[dict],
    made_labels: list[dict] | None = None,
) -> float:
    """Compute the Frechet distance between images and true renders, relative to a reference distance.

    The families are divided into two halves. The reference is the distance between the true renders of the two halves.
    All distances are computed on the classifier's features.

    Args:
        classifier: Classifier whose features are used.
        made: Images in [0, 1].
        truth: True renders in [0, 1].
        labels: Labels of the true renders.
        made_labels: Labels of the images; those of the true renders by default.

    Returns:
        The mean ratio over both halves, which is 0 for the true renders themselves and about 1 for unrelated images.
    """
    made, truth = classifier.classify(made).features, classifier.classify(truth).features

    def halves(labels: list[dict]) -> tuple[Tensor, Tensor]:
        even = torch.tensor([list(world.FAMILIES).index(label["family"]) % 2 == 0 for label in labels])
        return even, ~even

    of_truth, of_made = halves(labels), halves(made_labels or labels)
    mismatch = frechet_distance(*(truth[half] for half in of_truth))
    pairs = zip(of_made, of_truth, strict=True)
    return float(np.mean([frechet_distance(made[a], truth[b]) for a, b in pairs])) / mismatch


def sharpness_ratio(
    made: Float[Tensor, "made 3 height width"], truth: Float[Tensor, "truth 3 height width"], percentile: float = 0.9
) -> float:
    """Compute how steep the edges of images are, relative to true renders.

    Less than a tenth of a render's pixels are edges, so the 90th percentile lies beside the edges, and images with
    wide, ragged or grainy edges have a ratio above 1. The 98th percentile lies on the edges, and blurred images have a
    ratio below 1.

    Args:
        made: Generated images in [0, 1].
        truth: True renders of the same captions.
        percentile: Percentile of the gradient's magnitude over the pixels of an image, in [0, 1].

    Returns:
        The percentile, averaged over the images, divided by that of the true renders.
    """

    def steepness(images: Tensor) -> float:
        grey = images.mean(1)
        down, right = grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1]
        return float((down.square() + right.square()).sqrt().flatten(1).quantile(percentile, 1).mean())

    return steepness(made) / steepness(truth)


def nearest_neighbour_ratio(
    made: Float[Tensor, "made 3 64 64"],
    truth: Float[Tensor, "truth 3 64 64"],
    references: Float[Tensor, "references 3 64 64"],
) -> float:
    """Compute the nearest-neighbour distance of samples, divided by that of unseen renders.

    The nearest-neighbour distance is the mean distance from an image to its nearest training render, computed on the
    pixels at a resolution of 32 x 32.

    Args:
        made: Generated images in [0, 1].
        truth: True renders that are not among the training renders.
        references: Training renders.

    Returns:
        The ratio, which is well below 1 if the samples are copies of training renders.
    """

    def small(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2).flatten(1)

    references = small(references)
    return float(nearest_distances(small(made), references).mean() / nearest_distances(small(truth), references).mean())
