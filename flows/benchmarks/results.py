"""Tables, goals and JSON output of the benchmarks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate


@dataclass(frozen=True)
class Goal:
    """Smallest and largest value that a metric should have; None for no bound."""

    low: float | None = None
    high: float | None = None
    description: str = ""

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f"<= {self.high:g}" if self.low is None else f">= {self.low:g}"

    def reached(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], float_format: str = ".3g") -> str:
    """Format rows as a Markdown table, in which None becomes an empty cell."""
    cells = [
        ["" if cell is None else format(cell, float_format) if isinstance(cell, float) else cell for cell in row]
        for row in rows
    ]
    return tabulate(cells, header, tablefmt="github", disable_numparse=True)


def goal_table(values: Mapping[str, float | None], goals: Mapping[str, Goal]) -> str:
    """Format the metrics that have a goal as a Markdown table, and mark those that miss it."""
    rows = []
    for name, goal in goals.items():
        if name in values:
            value = values[name]
            shown = "not measured" if value is None else f"{value:.4g}"
            missed = value is not None and not goal.reached(value)
            rows.append((goal.description or name, shown, goal, "not reached" if missed else ""))
    return table(("metric", "value", "goal", ""), rows)


def as_json(found: Any, **summary: float) -> str:
    """Format the results of a benchmark as a JSON object, starting with the values in `summary`.

    If `found` is a list, it is stored under the key "rows".
    """
    values = {"rows": found} if isinstance(found, list) else found if isinstance(found, dict) else asdict(found)
    return json.dumps(summary | values, default=asdict)
