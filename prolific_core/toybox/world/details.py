"""Optional details of captions: the variant of an object, its precise view, the camera's height and the background.

Images with the same plain caption differ in all of these. A part of the training captions names them, so that the U-Net
has less to guess from noise (Betker et al., "Improving Image Generation with Better Captions", 2023). Each detail is
dropped at random, so that short prompts still work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prolific_core.toybox.world.captions import with_view, without_view
from prolific_core.toybox.world.families import COLOURS
from prolific_core.view_names import height_of, view_names


def nearest_colour(rgb: np.ndarray) -> str:
    """Return the name of the colour that is nearest to a given one.

    Args:
        rgb: sRGB in [0, 1].

    Returns:
        A key of `COLOURS`.
    """
    return min(COLOURS, key=lambda name: float(np.square(rgb - np.array(COLOURS[name])).sum()))


@dataclass(frozen=True)
class Details:
    """Details that a caption names; None or an empty string for those that it does not name.

    Attributes:
        trait: Words for the variant of the object.
        view: One of `view_names`.
        height: One of `HEIGHTS`.
        background: Name of the background's colour.
    """

    trait: str = ""
    view: str | None = None
    height: str | None = None
    background: str | None = None


def choose(label: dict, g: np.random.Generator, named_views: float = 0.5, others: float = 0.5) -> Details:
    """Choose the details of an image that its caption names.

    Args:
        label: Label of the image; see `draw.Example.label`.
        g: Random number generator.
        named_views: Probability of naming the view. The name is drawn uniformly from `view_names`.
        others: Probability of naming each of the other details.

    Returns:
        The details.
    """
    trait = label["trait"] if g.random() < others else ""
    if label["kind"] == "room":
        return Details()
    return Details(
        trait,
        str(g.choice(view_names(label["view"], label["azimuth"]))) if g.random() < named_views else None,
        height_of(label["elevation"]) if g.random() < others else None,
        label["background"] if g.random() < others else None,
    )


def describe(label: dict, details: Details) -> str:
    """Return the caption of an image with the given details.

    Args:
        label: Label of the image; see `draw.Example.label`.
        details: Details to name.

    Returns:
        The caption, such as "a white snowman with a hat, front left view, seen from a low angle, on a red background".
    """
    text = without_view(label["caption"])
    if details.trait:
        text = f"{text} {details.trait}"
    text = with_view(text, details.view)
    if details.height:
        text += f", seen from a {details.height} angle"
    if details.background:
        text += f", on {'an' if details.background[0] in 'aeiou' else 'a'} {details.background} background"
    return text
