"""Names of views by the direction of the camera.

The front of an object faces an azimuth of 0, and its own left side faces an azimuth of 90 degrees.
"""

import math

VIEWS = ("front", "side", "back", "overhead")
#: Names of side views that are more precise than "side".
SIDES = tuple(f"{side} {name}" for side in ("left", "right") for name in ("side", "profile")) + tuple(
    f"{end} {side}" for side in ("left", "right") for end in ("front", "back")
)
HEIGHTS = ("low", "medium", "high")

OVERHEAD = math.radians(60)  # elevation above which a view is an overhead view
END = math.radians(30)  # largest angle between a front or back view and the exact direction
PROFILE = math.radians(20)  # largest angle between a profile view and the exact side
LOW, HIGH = math.radians(10), math.radians(35)  # elevations that separate the heights


def view_of(azimuth: float, elevation: float) -> str:
    """Return the name of a view in ProlificDreamer (arXiv 2305.16213).

    Args:
        azimuth: Angle from the front, in radians.
        elevation: Angle above the horizontal plane, in radians.

    Returns:
        One of `VIEWS`.
    """
    off_front = abs(math.remainder(azimuth, 2 * math.pi))
    if elevation > OVERHEAD:
        return "overhead"
    if off_front <= END:
        return "front"
    return "back" if off_front >= math.pi - END else "side"


def view_names(view: str, azimuth: float) -> list[str]:
    """Return the names of a view, from the general to the precise.

    Args:
        view: One of `VIEWS`.
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
        view: One of `VIEWS`.
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
