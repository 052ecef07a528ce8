"""Frechet ratios of true renders, and other renders of the same captions."""

import torch

from prolific_core.toybox.evaluation.classifier import load_classifier
from prolific_core.toybox.evaluation.distances import frechet_ratio
from prolific_core.toybox.evaluation.groups import group, redraw
from prolific_core.toybox.world import draw as world


def test_the_frechet_ratio_is_0_for_the_truth_and_about_1_for_other_families():
    truth, classifier = group("trained", 256), load_classifier()
    assert abs(frechet_ratio(classifier, truth.truth, truth.truth, truth.labels)) < 1e-3
    names = list(world.FAMILIES)
    swapped = [label | {"family": names[names.index(label["family"]) ^ 1]} for label in truth.labels]
    ratio = frechet_ratio(classifier, truth.truth, truth.truth, truth.labels, swapped)
    assert 0.95 < ratio < 1.05


def test_other_renders_have_the_same_captions_and_are_nearer_than_those_of_other_captions():
    first = group("trained", 200)
    again, other = redraw(first), group("trained", 200, seed=1)
    assert again.captions == first.captions and len(again.truth) == len(first.truth)
    assert (again.truth - first.truth).abs().flatten(1).mean(1).min() > 0.001
    names = ("family", "colour", "view")
    assert [[a[name] for name in names] for a in again.labels] == [[a[name] for name in names] for a in first.labels]
    classifier = load_classifier()
    near = frechet_ratio(classifier, again.truth, first.truth, first.labels)
    far = frechet_ratio(classifier, other.truth, first.truth, first.labels, other.labels)
    assert 0 < near < far
    assert torch.equal(redraw(first).truth, again.truth)
