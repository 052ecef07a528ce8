"""Render HTML pages from the templates in templates/.

The pages contain no scripts and load nothing from the network. Reports embed their images and videos as data URLs.
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
    """Render a template with the given values. The values are HTML-escaped."""
    return _environment().get_template(template).render(values)


def inline(path: Path) -> str:
    """Return the contents of a file as a data URL."""
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def number(value: object) -> str:
    """Format a metric for display.

    Floats have four significant digits, or no decimals if their absolute value is at least 1000.
    """
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "not a number" if value is None else str(value)


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Return the `points` attribute of an SVG polyline, scaled to a view box of 300 x 60.

    The lowest and highest 1% of the values are clipped, so outliers do not flatten the curve. Returns an empty string
    for fewer than two points.
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
