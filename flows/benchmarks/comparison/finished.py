"""Finished runs of a comparison in the folder of its page, which later comparisons can reuse (`compare --reuse`)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.benchmarks.comparison.plan import Run
from prolific_core.errors import InputError
from prolific_core.files import write_atomically

JSON, IMAGES = "compare.json", "images"
DIVERSITY = ("diversity", "vendi_ratio")  # in 3D, they depend on which other runs are in the table


@dataclass(frozen=True)
class Finished:
    """Result of a run.

    Attributes:
        metrics: Metrics by name.
        commit: Revision of the code that made it.
        picture: Some of its images side by side, as PNG; None for runs that choose the guidance scale.
        features: In 3D, the mean feature vector of the views, from which diversity is computed.
    """

    metrics: dict[str, float]
    commit: str | None
    picture: bytes | None = None
    features: list[float] | None = None


def write(folder: Path, space: str, runs: Mapping[Run, Finished]) -> list[dict[str, Any]]:
    """Write the pictures of runs to the folder and return the records of the runs for `compare.json`."""
    return [_record(folder, space, run, result) for run, result in runs.items()]


def _record(folder: Path, space: str, run: Run, result: Finished) -> dict[str, Any]:
    record: dict[str, Any] = {**vars(run), "commit": result.commit, "metrics": result.metrics}
    if result.features is not None:
        record["features"] = [round(value, 5) for value in result.features]
    if result.picture is not None:
        name = re.sub(r"[^a-z0-9.]+", "-", f"{space} {run.method} {run.scale:g} {run.prompt} {run.seed}") + ".png"
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / IMAGES / name, result.picture)
        record["picture"] = name
    return record


def read(folder: Path, space: str, wanted: Mapping[str, Any]) -> dict[Run, Finished]:
    """Return the finished runs in the folder of a page.

    Args:
        folder: The folder with `compare.json`.
        space: "2d", "3d" or "systems".
        wanted: What all runs of the table must have in common, by name.

    Raises:
        InputError: The folder has no readable comparison, or its runs were made under other conditions.
    """
    try:
        values = json.loads((folder / JSON).read_text(encoding="utf-8"))
        part = values.get(space)
        if part is None:
            return {}
        had, records = part["conditions"], part["tuning"] + part["runs"]
        found = {Run(*(record[name] for name in ("method", "scale", "prompt", "seed"))): record for record in records}
        results = {run: _result(folder, record) for run, record in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--reuse: {folder / JSON} is not a comparison with reusable runs ({error})") from None
    for name, value in wanted.items():
        if had.get(name) != value:
            raise InputError(f"--reuse: the runs in {folder} were made with {name} {had.get(name)}, not {value}")
    return results


def _result(folder: Path, record: Mapping[str, Any]) -> Finished:
    picture = record.get("picture")
    metrics = dict(record["metrics"])
    if record.get("features") is not None:
        metrics = {name: value for name, value in metrics.items() if name not in DIVERSITY}
    return Finished(
        metrics,
        record["commit"],
        None if picture is None else (folder / IMAGES / Path(picture).name).read_bytes(),
        record.get("features"),
    )
