"""Optional details of captions: the variant of an object, its precise view, the camera's height and the background.

Images with the same plain caption differ in all of these. A part of the training captions names them, so that the U-Net
has less to guess from noise (Betker et al., "Improving Image Generation with Better Captions", 2023). Each detail is
dropped at random, so that short prompts still work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prolific_core.toybox.world.captions import with_view, without_view
from prolific_core.toybox.world.families import COLOURS

HEIGHTS = ("low", "medium", "high")

#: Names of side views that are more precise than "side".
SIDES = tuple(f"{side} {name}" for side in ("left", "right") for name in ("side", "profile")) + tuple(
    f"{end} {side}" for side in ("left", "right") for end in ("front", "back")
)

#: Variants of the families, as the parts in families.py name them.
TRAITS = (
    "with a solid back",
    "with a slatted back",
    "with one leg",
    "with four legs",
    "with a chimney",
    "without a chimney",
    "with a pointed crown",
    "with a round crown",
    "with a hat",
    "without a hat",
    "with dots",
    "without dots",
)

LOW, HIGH = math.radians(10), math.radians(35)  # elevations that separate the heights
PROFILE = math.radians(20)  # largest distance of a profile view from the exact side


def view_names(view: str, azimuth: float) -> list[str]:
    """Return the names of a view, from the general to the precise.

    Left and right are the object's own sides. Its front faces +x, so its left side faces +y.

    Args:
        view: One of `captions.VIEWS`.
        azimuth: Angle from the front, in radians.

    Returns:
        `view` itself and, for a side view, such names as "left side" and "front left" or "left profile".
    """
    if view != "side":
        return [view]
    azimuth = math.remainder(azimuth, 2 * math.pi)
    side = "left" if azimuth > 0 else "right"
    off_side = math.pi / 2 - abs(azimuth)
    precise = f"{side} profile" if abs(off_side) <= PROFILE else f"{'front' if off_side > 0 else 'back'} {side}"
    return [view, f"{side} side", precise]


def side_of(view: str, azimuth: float) -> str:
    """Return the name of a view that tells the left side from the right one.

    Args:
        view: One of `captions.VIEWS`.
        azimuth: Angle from the front, in radians.

    Returns:
        "left side", "right side", or `view` itself if it is not a side view.
    """
    return view_names(view, azimuth)[:2][-1]


def height_of(elevation: float) -> str:
    """Return the name of the camera's height.

    Args:
        elevation: Angle above the horizontal plane, in radians.

    Returns:
        One of `HEIGHTS`.
    """
    return HEIGHTS[int(elevation >= LOW) + int(elevation > HIGH)]


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
