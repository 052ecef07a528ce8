"""Groups of captions with their true renders, with which samples of a prior are compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count as numbers

import numpy as np
from jaxtyping import Float
from torch import Tensor

from prolific_core.toybox.params import HELD_OUT_SEED, RenderConfig
from prolific_core.toybox.training.shards import to_float
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world.captions import article, normal_caption, pair_caption, with_view
from prolific_core.toybox.world.draw import WITH_FRONT, Example
from prolific_core.view_names import side_of

RENDERS = RenderConfig()

#: Kind, split, view (None for any) and fraction of the samples for each group of captions.
GROUPS = {
    "trained": ("colour", "train", None, 0.35),
    "heldout": ("colour", "heldout", None, 0.25),
    "normals": ("normals", "any", None, 0.20),
    "pairs": ("pair", "any", "front", 0.20),
}


@dataclass(frozen=True)
class Group:
    """Captions with their true renders and labels.

    Attributes:
        captions: Captions in their simplest wording; see `plain_caption`.
        truth: True renders of the captions, in [0, 1].
        labels: Labels of the renders; see `Example.label`.
    """

    captions: list[str]
    truth: Float[Tensor, "images 3 64 64"]
    labels: list[dict]


def as_tensor(examples: list[Example]) -> Float[Tensor, "images 3 size size"]:
    """Stack the images of examples into a tensor.

    Args:
        examples: Examples whose images have the same size.

    Returns:
        Images in [0, 1].
    """
    return to_float(np.stack([e.image for e in examples]))


def plain_caption(e: Example, sides: bool = True) -> str:
    """Return the simplest caption of an example.

    The caption always names the view and, by default, the side of a single object with a front.

    Args:
        e: Example to describe.
        sides: Whether to tell the left side from the right one.

    Returns:
        The caption.
    """
    view = side_of(e.view, e.azimuth) if sides and e.family in WITH_FRONT and not e.second else e.view
    if e.kind == "normals":
        return normal_caption(e.family, view)
    if e.second and e.relation:
        return pair_caption((e.family, e.colour), e.relation, e.second, np.random.default_rng(0), view)
    return with_view(article(f"a {e.colour} {e.family}"), view)


def classifiable(e: Example) -> bool:
    """Return whether the classifier can predict everything that the caption of an example describes.

    Args:
        e: Example to test.

    Returns:
        True for a single object without stripes and for a pair of different objects.
    """
    if e.kind == "pair" and e.second:
        return (e.family, e.colour) != tuple(e.second)
    return not e.second and not e.stripes


def group(
    name: str, count: int, data: RenderConfig = RENDERS, seed: int = HELD_OUT_SEED + 5, sides: bool = True
) -> Group:
    """Sample captions together with their true renders and labels.

    Args:
        name: Key of `GROUPS`.
        count: Number of captions.
        data: Parameters of the renders.
        seed: Random seed.
        sides: Whether the captions tell the left side from the right one.

    Returns:
        The group of `count` captions.
    """
    kind, split, view, _ = GROUPS[name]
    found, k = [], 0
    while len(found) < count:
        e = world.draw(seed, k, data, kind=kind, split=split, view=view)
        k += 1
        if classifiable(e):
            found.append(e)
    return Group([plain_caption(e, sides) for e in found], as_tensor(found), [e.label() for e in found])


def redraw(single: Group, data: RenderConfig = RENDERS, seed: int = HELD_OUT_SEED + 7, sides: bool = True) -> Group:
    """Sample other true renders of the captions of a group without pairs.

    Args:
        single: The group.
        data: Parameters of the renders.
        seed: Random seed.
        sides: Whether the captions tell the left side from the right one.

    Returns:
        A group with the same captions.
    """
    found = []
    for k, (caption, label) in enumerate(zip(single.captions, single.labels, strict=True)):
        fixed = {"kind": label["kind"], "words": (label["family"], label["colour"]), "view": label["view"]}
        drawn = (world.draw(seed, index, data, **fixed) for index in numbers(k, len(single.captions)))
        found.append(next(e for e in drawn if plain_caption(e, sides) == caption))
    return Group(single.captions, as_tensor(found), [e.label() for e in found])
