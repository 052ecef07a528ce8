"""Optional details of captions: the variant of an object, its precise view, the camera's height and the background.

Images with the same plain caption differ in all of these. A part of the training captions names them, so that the U-Net
has less to guess from noise (Betker et al., "Improving Image Generation with Better Captions", 2023). Each detail is
dropped at random, so that short prompts still work.
"""

from __future__ import annotations

import math

import numpy as np

from prolific_core.toybox.world.captions import with_view, without_view
from prolific_core.toybox.world.families import COLOURS

HEIGHTS = ("low", "medium", "high")
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


def with_trait(text: str, trait: str) -> str:
    """Add the variant of the object to a caption that does not name a view.

    Args:
        text: Caption.
        trait: Words such as "with a hat"; may be empty.

    Returns:
        The caption, such as "a white snowman with a hat".
    """
    return f"{text} {trait}" if trait else text


def with_height(text: str, height: str) -> str:
    """Append the camera's height to a caption.

    Args:
        text: Caption.
        height: One of `HEIGHTS`.

    Returns:
        The caption, such as "a red mug, front view, seen from a low angle".
    """
    return f"{text}, seen from a {height} angle"


def with_background(text: str, colour: str) -> str:
    """Append the colour of the background to a caption.

    Args:
        text: Caption.
        colour: Key of `COLOURS`.

    Returns:
        The caption, such as "a red mug, on an orange background".
    """
    return f"{text}, on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"


def detailed(label: dict, g: np.random.Generator, named_views: float = 0.5, details: float = 0.5) -> str:
    """Return the caption of an image with a random selection of its details.

    Args:
        label: Label of the image; see `draw.Example.label`.
        g: Random number generator.
        named_views: Probability of naming the view. The name is drawn uniformly from `view_names`.
        details: Probability of each of the other details.

    Returns:
        The caption.
    """
    text = without_view(label["caption"])
    if label["trait"] and g.random() < details:
        text = with_trait(text, label["trait"])
    if label["kind"] == "room":
        return text
    if g.random() < named_views:
        text = with_view(text, str(g.choice(view_names(label["view"], label["azimuth"]))))
    if g.random() < details:
        text = with_height(text, height_of(label["elevation"]))
    if label["background"] and g.random() < details:
        text = with_background(text, label["background"])
    return text
