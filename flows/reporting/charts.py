"""Line charts of training curves, with axes, as coordinates for an SVG template.

A chart has a view box of `WIDTH` x `HEIGHT`, in which the plot leaves room for the labels of the axes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 306, 8, 124  # edges of the plot


@dataclass(frozen=True)
class Chart:
    """Coordinates of a chart: the line, and the position and label of each tick."""

    points: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    logarithmic: bool


def chart(points: Sequence[tuple[float, float]]) -> Chart | None:
    """Return the chart of a curve, or None if it has fewer than two different steps.

    The y axis is logarithmic if the values are positive and span more than two decades. It covers all values but the
    highest and lowest 1%, which are clipped, so that outliers do not flatten the curve.

    Args:
        points: Pairs of step and finite value, in the order of steps.
    """
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return None
    values = sorted(y for _, y in points)
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    logarithmic = low > 0 and high / low > 100
    ticks = _decades(low, high) if logarithmic else _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    scale = math.log10 if logarithmic else float

    def across(step: float) -> float:
        return round(LEFT + (step - points[0][0]) / (points[-1][0] - points[0][0]) * (RIGHT - LEFT), 1)

    def up(value: float) -> float:
        fraction = (scale(min(max(value, low), high)) - scale(low)) / (scale(high) - scale(low))
        return round(BOTTOM - fraction * (BOTTOM - TOP), 1)

    steps = [step for step in _ticks(points[0][0], points[-1][0]) if points[0][0] <= step <= points[-1][0]]
    return Chart(
        " ".join(f"{across(step)},{up(value)}" for step, value in points),
        [(across(step), f"{step:g}") for step in steps],
        [(up(tick), f"{tick:.6g}") for tick in ticks],
        logarithmic,
    )


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers from just below `low` to just above `high`.

    Their distance is 1, 2 or 5 times a power of ten.
    """
    if high == low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return at most six powers of ten from just below `low` to just above `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = math.ceil((last - first) / 5)
    return [10.0**exponent for exponent in range(first, last + stride, stride)]
