"""Table of a comparison: the mean of each metric with its interval, and the differences between methods."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flows.benchmarks import results
from flows.benchmarks.comparison.plan import Run
from prolific_core.metrics.intervals import Interval, interval

COLUMNS = {  # metrics in the order of the table, with the direction that is better: -1 for lower, 1 for higher
    "excess": ("excess", -1),
    "percentile": ("percentile", -1),
    "saturation_error": ("saturation error", -1),
    "saturation": ("saturation", 0),
    "sharpness": ("sharpness", 0),
    "diversity": ("diversity", 0),
    "vendi_ratio": ("Vendi", 0),
    "occupied": ("occupied", 0),
    "iou": ("IoU", 1),
    "chamfer": ("Chamfer", -1),
    "family": ("family", 1),
    "colour": ("colour", 1),
    "alignment": ("alignment", 1),
    "r_precision": ("R-precision", 1),
    "fronts": ("fronts", -1),
    "seconds": ("seconds", -1),
    "memory": ("MB", -1),
    "evaluations": ("evaluations", 0),
}
COMPARED = ("excess", "saturation_error", "diversity", "vendi_ratio", "iou", "family")
# Ratios to true objects, which are compared by their distance from 1: images of noise are more diverse than true ones.
RATIOS = ("diversity", "vendi_ratio")


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between a method and the reference, over pairs of the same prompt and seed.

    For the metrics in RATIOS, it is the difference of their distances from 1.
    `verdict` is "none" if the interval contains 0, and otherwise "better" or "worse".
    """

    method: str
    metric: str
    interval: Interval
    verdict: str


def means(found: Mapping[Run, Mapping[str, float]]) -> dict[str, dict[str, Interval]]:
    """Return the mean and the interval of each metric for each method."""
    return {
        method: {name: interval(values) for name in COLUMNS if (values := _matrix(found, method, name)) is not None}
        for method in dict.fromkeys(run.method for run in found)
    }


def differences(found: Mapping[Run, Mapping[str, float]], reference: str) -> list[Difference]:
    """Compare all methods with the reference."""
    rows = []
    for method in dict.fromkeys(run.method for run in found):
        for name in COMPARED:
            ours, theirs = _matrix(found, method, name), _matrix(found, reference, name)
            if method == reference or ours is None or theirs is None:
                continue
            if name in RATIOS:
                ours, theirs = abs(ours - 1), abs(theirs - 1)
            change = interval(ours - theirs)
            better = (-1 if name in RATIOS else COLUMNS[name][1]) * change.mean > 0
            # A single pair has no interval, so it shows no difference.
            certain = change.excludes_zero and change.low < change.high
            rows.append(Difference(method, name, change, ("better" if better else "worse") if certain else "none"))
    return rows


def _matrix(found: Mapping[Run, Mapping[str, float]], method: str, name: str) -> np.ndarray | None:
    """Return a metric with a row for each prompt and a column for each seed, or None if a run does not have it.

    Prompts of which no run has the metric are left out, such as a cube, which has no front.
    """
    rows: dict[str, list[float | None]] = {}
    for run, values in sorted(found.items(), key=lambda item: item[0].seed):
        if run.method == method:
            rows.setdefault(run.prompt, []).append(values.get(name))
    kept = [row for _, row in sorted(rows.items()) if any(value is not None for value in row)]
    if not kept or any(value is None for row in kept for value in row) or len({len(row) for row in kept}) > 1:
        return None
    return np.array(kept, dtype=float)


def table(summary: Mapping[str, Mapping[str, Interval]], scales: Mapping[str, float]) -> str:
    """Format the means as a Markdown table, in which the intervals are in brackets."""
    names = [name for name in COLUMNS if any(name in row for row in summary.values())]
    rows = (
        (method, f"{scales[method]:g}", *(_cell(row.get(name), name) for name in names))
        for method, row in summary.items()
    )
    return results.table(["method", "scale", *(COLUMNS[name][0] for name in names)], rows)


def differences_table(rows: Sequence[Difference]) -> str:
    """Format the differences as a Markdown table."""
    shown = ((row.method, compared_name(row.metric), _cell(row.interval, row.metric), row.verdict) for row in rows)
    return results.table(["method", "metric", "difference", "verdict"], shown)


def compared_name(metric: str) -> str:
    """Return the name of a compared metric for a table."""
    return COLUMNS[metric][0] + (", distance from 1" if metric in RATIOS else "")


def _cell(value: Interval | None, name: str) -> str:
    if value is None:
        return ""
    digits = {"seconds": 0, "memory": 0, "evaluations": 0, "chamfer": 3}.get(name, 2)
    shown = f"{value.mean:.{digits}f}"
    if value.low == value.high or name == "evaluations":
        return shown
    return f"{shown} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def as_json(summary: Mapping[str, Mapping[str, Interval]], rows: Sequence[Difference]) -> dict[str, Any]:
    """Return the means and differences as values for a JSON file."""
    return {
        "means": {m: {name: asdict(value) for name, value in row.items()} for m, row in summary.items()},
        "differences": [asdict(row) for row in rows],
    }
