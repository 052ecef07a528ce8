"""HTML pages from the templates in this folder.

A page holds its images and videos as data URLs, has no script, and loads nothing from a network.
"""

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_MEDIA_TYPES = {".png": "image/png", ".mp4": "video/mp4"}


@cache
def _environment() -> Environment:
    templates = FileSystemLoader(Path(__file__).with_name("templates"))
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"inline": inline, "number": number}
    return environment


def render(template: str, **values: object) -> str:
    """Fill a template. All values are escaped."""
    return _environment().get_template(template).render(values)


def inline(path: Path) -> str:
    """Return a file as a data URL."""
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def number(value: object) -> str:
    """Format a metric. Floats have four digits, or no decimals from 1000 on."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "not a number" if value is None else str(value)


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Return the points of an SVG polyline that fills 300 x 60, or "" for fewer than two points.

    The outer hundredth of the values is clipped, so that spikes do not fill the curve.
    """
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return ""
    values = sorted(y for _, y in points)
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    left, right = points[0][0], points[-1][0]

    def place(x: float, y: float) -> str:
        height = (min(max(y, low), high) - low) / (high - low) if high > low else 0.5
        return f"{(x - left) / (right - left) * 300:.1f},{58 - height * 56:.1f}"

    return " ".join(place(x, y) for x, y in points)
