"""Accuracies of the classifier on images whose captions are known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from prolific_core.toybox.evaluation.classifier import Classifier
from prolific_core.toybox.world.draw import WITH_FRONT
from prolific_core.toybox.world.scene import relative_place
from prolific_core.view_names import side_of


def right_answers(
    classifier: Classifier, images: Float[Tensor, "images 3 64 64"], labels: list[dict]
) -> dict[str, float]:
    """Compute the classifier's accuracies on images of single objects.

    Args:
        classifier: Trained classifier.
        images: Images in [0, 1].
        labels: True labels of the images.

    Returns:
        Accuracies under the keys "family" (all images), "colour" (coloured images), "view" (images of families with a
        front, where left and right sides count as one view) and "side" (images from the side of families with a front,
        where the side must be the right one). An accuracy is NaN if it applies to none of the images.
    """
    right: dict[str, list[bool]] = {"family": [], "colour": [], "view": [], "side": []}
    for answer, label in zip(classifier.answers(images), labels, strict=True):
        right["family"].append(answer["family"] == label["family"])
        if label["kind"] == "colour":
            right["colour"].append(answer["colour"] == label["colour"])
        if label["family"] in WITH_FRONT:
            right["view"].append(answer["view"].split()[-1] == label["view"])
            if label["view"] == "side":
                right["side"].append(answer["view"] == side_of("side", label["azimuth"]))
    return {head: float(np.mean(values)) if values else float("nan") for head, values in right.items()}


def right_relations(
    classifier: Classifier, images: Float[Tensor, "images 3 64 64"], labels: list[dict]
) -> dict[str, float]:
    """Compute the classifier's accuracies on images of two objects.

    Args:
        classifier: Trained classifier.
        images: Images in [0, 1].
        labels: True labels of the images.

    Returns:
        Accuracies under the keys "relation", "families" and "colours". Families and colours count as correct only if
        they are correct for both objects.
    """
    right: dict[str, list[bool]] = {"relation": [], "families": [], "colours": []}
    for answer, label in zip(classifier.answers(images), labels, strict=True):
        first, second, place = relative_place(label)
        right["relation"].append(answer["place"] in ({"left", "right"} if place is None else {place}))
        right["families"].append((answer["first_family"], answer["second_family"]) == (first[0], second[0]))
        right["colours"].append((answer["first_colour"], answer["second_colour"]) == (first[1], second[1]))
    return {name: float(np.mean(values)) for name, values in right.items()}
