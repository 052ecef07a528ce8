"""Metrics of a run in comparison with true renders of its prompt, in 2D and in 3D."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from prolific_core.cameras import Cameras, orbit
from prolific_core.config import EvaluateConfig
from prolific_core.mesh.compare import Solid
from prolific_core.metrics.alignment import alignment, r_precision
from prolific_core.metrics.diversity import pairwise_distance, saturation, vendi_score
from prolific_core.metrics.fidelity import kernel_distance
from prolific_core.prior.location import TOYBOX
from prolific_core.prior.scorer import Scorer
from prolific_core.toybox.evaluation.agreement import agreement
from prolific_core.toybox.evaluation.distances import sharpness_ratio
from prolific_core.toybox.evaluation.ground_truth import (
    Views,
    against_truth,
    features,
    fronts,
    own_distances,
    true_views,
)
from prolific_core.toybox.evaluation.shape import shape_metrics
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world.captions import article

TRUE_RENDERS = 64
TRUE_OBJECTS = 8  # for metrics in 3D; more seeds are compared with as many true objects
SHARPNESS = 0.98  # percentile of the gradient's magnitude, which lies on the edges


@cache
def true_images(text: str, first: int = 0, count: int = TRUE_RENDERS) -> Tensor:
    """Return true renders (N, 3, 64, 64) of a prompt in [0, 1], none of which is in the prior's training data."""
    words = world.parse(text)
    images = [world.draw(90_017, first + k, kind="colour", words=words).image for k in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


@cache
def _true_sets(text: str, size: int) -> list[float]:
    """Return the kernel distances of 64 sets of true renders, each as large as a run's, from other true renders."""
    others = features(true_images(text, TRUE_RENDERS, 4 * TRUE_RENDERS))
    target, random = features(true_images(text)), np.random.default_rng(0)
    picks = [torch.from_numpy(random.choice(len(others), size, replace=False)) for _ in range(64)]
    return [kernel_distance(others[pick], target) for pick in picks]


def of_images(text: str, images: Tensor) -> dict[str, float]:
    """Compute the metrics of images (N, 3, 64, 64) of one prompt, N > 1."""
    truth = true_images(text)
    ours, true = features(images), features(truth)
    ratio = saturation(images) / saturation(truth)
    same_size = [true[k : k + len(ours)] for k in range(0, len(true) - len(ours) + 1, len(ours))]
    return {
        **_distance(kernel_distance(ours, true), _true_sets(text, len(ours))),
        "diversity": pairwise_distance(ours) / pairwise_distance(true),
        "vendi_ratio": vendi_score(ours) / float(np.mean([vendi_score(rows) for rows in same_size])),
        "saturation_error": abs(ratio - 1),
        "saturation": ratio,
        "sharpness": sharpness_ratio(images, truth, SHARPNESS),
        **_agreement(images, text),
    }


@cache
def _true_objects(text: str) -> tuple[Views, list[float]]:
    views = cameras()
    truth = true_views(text, views, TRUE_OBJECTS)
    assert truth is not None  # The command has checked that the prompt can be parsed.
    distances = own_distances(text, views, truth)
    assert distances is not None
    return truth, distances


def cameras() -> Cameras:
    """Return the cameras from which a radiance field is evaluated, which are those of the stage `evaluate`."""
    look = EvaluateConfig()
    return orbit(look.views, elevation=look.elevation, distance=look.distance, fov=look.fov)


def of_object(text: str, made: Views, solid: Solid) -> tuple[dict[str, float], Tensor]:
    """Compute the metrics of an object from its views over white and its mesh, and its mean feature vector (D,)."""
    truth, distances = _true_objects(text)
    compared = against_truth(made, truth)
    return {
        **_distance(compared["kernel_distance"], distances),
        "saturation_error": abs(compared["saturation_ratio"] - 1),
        "saturation": compared["saturation_ratio"],
        "sharpness": sharpness_ratio(made.rgb, truth.rgb, SHARPNESS),
        "occupied": compared["occupied_ratio"],
        **_agreement(made.rgb, text),
        **{name: float(count) for name, count in fronts(text, made.rgb).items()},
        **shape_metrics(text, solid),
    }, features(made.rgb).mean(0)


def diversity_of_objects(text: str, vectors: Tensor) -> dict[str, float]:
    """Compare the mean feature vectors (N, D) of objects of one prompt with those of N true objects; N > 1."""
    true = _true_vectors(text, max(TRUE_OBJECTS, len(vectors)))
    return {
        "diversity": pairwise_distance(vectors) / pairwise_distance(true),
        "vendi_ratio": vendi_score(vectors) / vendi_score(true[: len(vectors)]),
    }


@cache
def _true_vectors(text: str, count: int) -> Tensor:
    """Return the mean feature vectors (count, D) of true objects of a prompt."""
    views = cameras()
    truth = _true_objects(text)[0] if count == TRUE_OBJECTS else true_views(text, views, count)
    assert truth is not None  # The command has checked that the prompt can be parsed.
    return torch.stack([rows.mean(0) for rows in features(truth.rgb).split(len(views))])


def _distance(distance: float, own: list[float]) -> dict[str, float]:
    """Return the excess of a kernel distance over the median of truth's own, and its percentile among them."""
    return {"excess": distance - float(np.median(own)), "percentile": float(np.mean(np.asarray(own) <= distance))}


def _agreement(images: Tensor, text: str) -> dict[str, float]:
    found = agreement(images, text)
    return {
        "family": found["family_agreement"],
        "colour": found["colour_agreement"],
        "alignment": alignment(_scorer(), images, text),
        "r_precision": r_precision(_scorer(), images, text, other_prompts(text)),
    }


def other_prompts(text: str, count: int = 31) -> list[str]:
    """Return other prompts of one object, among which the scorer has to find the text: the same for each run."""
    family, colour = world.parse(text) or (None, None)
    pairs = [(f, c) for f in world.FAMILIES for c in world.COLOURS if (f, c) != (family, colour)]
    chosen = np.random.default_rng(0).choice(len(pairs), count, replace=False)
    return [article(f"a {pairs[k][1]} {pairs[k][0]}") for k in chosen]


@cache
def _scorer() -> Scorer:
    found = Scorer.load(None, str(TOYBOX))
    assert found is not None  # it is part of the package
    return found
