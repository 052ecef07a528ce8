"""Finished runs of a comparison in the folder of its page, which later comparisons can reuse (`compare --reuse`)."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.benchmarks.comparison.plan import TUNING_PROMPTS, Run
from prolific_core import prompts
from prolific_core.errors import InputError
from prolific_core.files import read_json, write_atomically

JSON, IMAGES = "compare.json", "images"
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file
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
        name = prompts.make_id(f"{space} {run.method} {run.scale:g} {run.prompt} {run.seed}", distinct=True) + ".png"
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
        had, records = dict(part["conditions"]), part["tuning"] + part["runs"]
        found = {Run(*(record[name] for name in ("method", "scale", "prompt", "seed"))): record for record in records}
        results = {run: _result(folder, space, record) for run, record in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"--reuse: {folder / JSON} is not a comparison with reusable runs ({error})") from None
    for name, value in wanted.items():
        if had.get(name) != value:
            raise InputError(f"--reuse: the runs in {folder} were made with {name} {had.get(name)}, not {value}")
    return results


def check_kept(folder: Path, space: str, found: Mapping[Run, Finished], table: Sequence[tuple[str, str, int]]) -> None:
    """Raise an InputError if a table would replace that of the folder without some of its runs.

    Args:
        folder: The folder of both tables.
        space: "2d", "3d" or "systems".
        found: The finished runs in the folder.
        table: Method, prompt and seed of each run of the new table.
    """
    lost = [run for run in found if run.prompt not in TUNING_PROMPTS]
    lost = [run for run in lost if (run.method, run.prompt, run.seed) not in table]
    if lost:
        raise InputError(
            f"--out: the new table of {space} in {folder} would not have {len(lost)} of its runs, such as {lost[0]}; "
            "compare their methods, prompts and seeds, too, or give another folder"
        )


def check_spaces(folder: Path, spaces: Collection[str]) -> None:
    """Raise an InputError if a comparison of some spaces would replace one with others, too."""
    others = [space for space in ("2d", "3d", "systems") if space in read_json(folder / JSON) and space not in spaces]
    if others:
        raise InputError(
            f"--out: the new comparison in {folder} would not have its runs in {', '.join(others)}; give another folder"
        )


def _result(folder: Path, space: str, record: Mapping[str, Any]) -> Finished:
    values, commit = record["metrics"], record["commit"]
    metrics = {name: float(values[name]) for name in ("excess", *values)}
    features = None
    if space != "2d":
        metrics = {name: value for name, value in metrics.items() if name not in DIVERSITY}
        features = [float(value) for value in record["features"]]
    if not isinstance(commit, str | None):
        raise TypeError("the commit is not a text")
    name = record.get("picture")
    picture = None if name is None else _picture(folder / IMAGES / Path(name).name)  # in no other folder
    return Finished(metrics, commit, picture, features)


def _picture(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(PNG):
        raise ValueError(f"{path.name} is not a PNG file")
    return data
