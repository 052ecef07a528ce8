"""The two-sample test tells blurred renders from true ones, and true ones not from each other."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from prolific_core.toybox.evaluation import two_sample
from prolific_core.toybox.evaluation.classifier import load_classifier
from prolific_core.toybox.evaluation.distances import sharpness_ratio
from prolific_core.toybox.world import draw as world


@pytest.fixture(scope="module")
def renders():
    """Render 2 x 200 images of one object each."""
    images = np.stack([world.draw(77, k, kind="colour", samples=2).image for k in range(400)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).split(200)


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


def blur(x):
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def test_truth_is_not_told_from_truth_but_from_its_blurred_copy(classifier, renders):
    first, second = renders
    calls = []
    assert 0.35 < two_sample.accuracy(classifier, first, second, 1, lambda: calls.append(1)) < 0.65
    assert len(calls) == two_sample.FOLDS
    assert two_sample.accuracy(classifier, blur(first), second, seeds=1) > 0.95


def test_wrong_shapes_are_told_by_the_activations(classifier, renders):
    """Mirroring at the horizon keeps all edges."""
    first, second = renders
    assert two_sample.accuracy(classifier, first.flip(2), second, seeds=1) > 0.7  # of 200 images only


def test_the_test_repeats(classifier, renders):
    first, second = (part[:60] for part in renders)
    results = {two_sample.accuracy(classifier, first, blur(second), seeds=1) for _ in range(2)}
    assert len(results) == 1


def test_sharpness_of_truth_is_one(renders):
    first, second = renders
    assert sharpness_ratio(first, first) == 1.0
    assert 0.85 < sharpness_ratio(first, second) < 1.15
    assert sharpness_ratio(blur(first), first) > 1.5  # wider edges: beside an edge of truth, all is flat
    assert sharpness_ratio(blur(first), first, 0.98) < 0.8
