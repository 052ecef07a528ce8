"""Descriptions of the metrics, which the pages show and from which the tables of docs/metrics.md are made.

python -m flows.reporting.metrics      # write the tables into docs/metrics.md
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from prolific_core.files import write_atomically


@dataclass(frozen=True)
class Description:
    """Description of the metrics `names`, from a row of metrics.yaml."""

    names: tuple[str, ...]
    unit: str
    meaning: str
    better: str = ""  # "higher", "lower", the best value, or empty if neither direction is better
    truth: str = ""  # the value of true objects, an expression "metric - metric", or empty if it is not known
    toybox: bool = False
    stage: str = ""

    @property
    def better_text(self) -> str:
        return f"nearer to {self.better}" if _is_number(self.better) else self.better

    def true_value(self, metrics: Mapping[str, Any]) -> float | None:
        """Return the value that true objects have, given the metrics of a model, or None if it is not known."""
        values = [metrics.get(name) if not _is_number(name) else float(name) for name in self.truth.split(" - ")]
        numbers = [value for value in values if isinstance(value, int | float) and abs(value) < 1e300]
        return numbers[0] - sum(numbers[1:]) if len(numbers) == len(values) else None


@cache
def _descriptions(section: str) -> tuple[Description, ...]:
    rows: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text())[section]
    for row in rows:
        row["names"] = tuple(row["names"])
        row |= {key: str(row[key]) for key in ("better", "truth") if key in row}
    return tuple(Description(**row) for row in rows)


def describe(name: str, stage: bool = False) -> Description:
    """Return the description of a prompt's metric, or of a stage's. Unknown metrics have an empty one."""
    found = (row for row in _descriptions("stage" if stage else "prompt") if name in row.names)
    return next(found, Description((name,), "", ""))


def ordered(names: Iterable[str]) -> list[str]:
    """Return the names of a prompt's metrics in the order of metrics.yaml. Unknown names come last."""
    order = [name for row in _descriptions("prompt") for name in row.names]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def documented(page: str) -> str:
    """Return the text of docs/metrics.md with new tables."""
    for section, header in (("prompt", ("name", "unit", "better", "truth")), ("stage", ("name", "unit", "stage"))):
        lines = [_line((*header, "meaning")), "|" + "---|" * (len(header) + 1)]
        lines += [_line(_cells(row, header)) for row in _descriptions(section)]
        title = f"### Metrics of a {section}'s run\n"
        before, found, after = page.partition(title)
        page = before + found + re.sub(r"(?m)(^\|.*\n)+", lambda _: "\n".join(lines) + "\n", after, count=1)  # noqa: B023
    return page


def _cells(row: Description, header: tuple[str, ...]) -> list[str]:
    names = ", ".join(f"`{name}`" for name in row.names) + (" *" if row.toybox else "")
    truth = re.sub(r"[a-z_]+", r"`\g<0>`", row.truth)
    cells = {"name": names, "unit": row.unit, "better": row.better_text, "truth": truth, "stage": row.stage}
    return [*(cells[name] for name in header), row.meaning]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


if __name__ == "__main__":
    page = Path("docs/metrics.md")
    write_atomically(page, documented(page.read_text()).encode())
