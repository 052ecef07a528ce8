"""Report page of a prompt, with its model to turn, files, metrics, curves and parameters.

The report is not the output of a stage, so no stage runs again if the layout of the page changes.
"""

import json
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flows.prompt_store.create import sections_of
from flows.reporting import charts, downloads, metrics
from flows.reporting.html import MODEL_VIEWER, render
from prolific_core.config import Config
from prolific_core.errors import InputError
from prolific_core.files import read_json, write_atomically
from prolific_core.prompts import DEFAULT_PRESET, Prompt
from tasks.runtime import records
from tasks.runtime.job import PREVIEW
from tasks.runtime.project import STAGES, Project, ResolvedPrompt
from tasks.tracking.prompt_runs import flatten

# Title of each stage on the page, and the curves that are shown of it.
_TITLES = {
    "initialise": "Initial scene",
    "nerf": "Radiance field",
    "geometry": "Surface",
    "texture": "Texture",
    "export": "Mesh",
    "evaluate": "Evaluation",
}
_CURVES = ("loss", "opacity", "score_gain")
_RESULT = ("evaluate", "export")  # stages whose metrics are those of the model


def write(resolved: ResolvedPrompt) -> Path:
    """Write a prompt's report to reports/ and return its path. Downloads are links to the files in runs/.

    Raises:
        InputError: If the prompt has no results.
    """
    path = resolved.project.report(resolved.id)
    write_atomically(path, _page(resolved, path.parent).encode())
    return path


def update(resolved: ResolvedPrompt) -> None:
    """Write a prompt's report unless it is newer than everything that it shows, and than the code of reports."""
    project, path = resolved.project, resolved.project.report(resolved.id)
    shown = [
        *(project.prompt_folder(resolved.id) / name for name in ("prompt.yaml", "dvc.lock")),
        *(resolved.output(stage) / "manifest.json" for stage in STAGES),
        *(resolved.state(stage) / "records.jsonl" for stage in STAGES),
        *(
            file
            for pattern in ("params.yaml", "presets/*.yaml", "systems/*.yaml")
            for file in project.root.glob(pattern)
        ),
    ]
    newest = max(_changed(), *(file.stat().st_mtime_ns for file in shown if file.is_file()))
    if not path.is_file() or path.stat().st_mtime_ns <= newest:
        write(resolved)


@cache
def _changed() -> int:
    """Return the time of the last change to the code of reports, in nanoseconds."""
    return max(file.stat().st_mtime_ns for file in Path(__file__).parent.rglob("*"))


def export(resolved: ResolvedPrompt, path: Path) -> Path:
    """Write a prompt's report as a single file that holds all downloads, and return its path.

    Raises:
        InputError: If the prompt has no results, or the file cannot be written.
    """
    page = _page(resolved, None).encode()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file, such as {path / resolved.id}.html")
    try:
        write_atomically(path, page)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another place") from None
    return path


def command(prompt: Prompt, config: Config) -> str:
    """Return the command that reproduces the model.

    On the same type of processor, the result is bitwise identical. If the prompt file sets parameters for which
    `prolific generate` has no option, the command is `prolific sweep ID`.
    """
    sections = {name: values for name, values in prompt.sections.items() if values}
    method = "vsd" if prompt.system_name else config.nerf.guidance.method
    if sections != sections_of(config.initialise.particles, method):
        return shlex.join(["prolific", "sweep", prompt.id])
    parts = ["prolific", "generate"]
    if prompt.preset != DEFAULT_PRESET:
        parts += ["--preset", prompt.preset]
    if prompt.system_name:
        parts += ["--system", prompt.system_name]
    if prompt.seed:
        parts += ["--seed", str(prompt.seed)]
    if config.initialise.particles != 1:
        parts += ["--particles", str(config.initialise.particles)]
    if method != "vsd":
        parts += ["--method", method]
    if prompt.forced:
        parts.append("--force")
    return shlex.join([*parts, "--", prompt.text] if prompt.text.startswith("-") else [*parts, prompt.text])


def _page(resolved: ResolvedPrompt, folder: Path | None) -> str:
    """Return the page for a folder, to which its links are relative, or a page that needs no other file."""
    project, prompt, config = resolved.project, resolved.prompt, resolved.config
    if not any(resolved.output(stage).is_dir() for stage in STAGES):
        raise InputError(f"{prompt.id} has no results yet; make them: prolific sweep {prompt.id}")
    evaluated, exported = resolved.output("evaluate"), resolved.output("export")
    models = downloads.by_particle(exported.glob("mesh*.glb"))
    sheets = downloads.by_particle(evaluated.glob("contact*.png"))
    turntables = downloads.by_particle(evaluated.glob("turntable*.mp4"))
    textures = downloads.by_particle(exported.glob("mesh*.png"))
    stages = [stage for name in STAGES if (stage := _stage(project, prompt.id, name))]
    values = {
        name: value for stage in _RESULT for name, value in read_json(resolved.output(stage) / "metrics.json").items()
    }
    return render(
        "report.html",
        scripts=(MODEL_VIEWER, "report.js") if models else (),
        title=prompt.text,
        gallery=folder is not None,
        facts=[*_facts(prompt, config), *_duration(resolved)],
        models=models,
        images=[
            *(("From all sides", path) for path in sheets),
            *(("Turntable", path) for path in turntables),
            *(("Texture", path) for path in textures),
        ],
        downloads=downloads.linked(resolved, folder) if folder else downloads.embedded(resolved),
        metrics=_metrics(values),
        stages=stages,
        curves={curve["name"]: curve["meaning"] for stage in stages for curve in stage["curves"]},
        command=command(prompt, config),
        parameters=_parameters(config),
    )


def _facts(prompt: Prompt, config: Config) -> list[str]:
    facts = [f"preset {prompt.preset}", *([f"system {prompt.system_name}"] if prompt.system_name else [])]
    facts.append(f"seed {prompt.seed}")
    facts += [config.nerf.guidance.method.upper(), f"prior {config.prior.path}"]
    if config.initialise.particles > 1:
        facts.append(f"{config.initialise.particles} particles")
    return facts


def model_seconds(project: Project, id: str) -> float | None:
    """Return the sum over the stages of a finished prompt, or None if the time of one is not known."""
    ends = (
        records.end_of(project.stage_state(id, stage) / "records.jsonl", project.output(id, stage)) for stage in STAGES
    )
    return records.total_seconds(end.get("seconds") for end in ends)


def _duration(prompt: ResolvedPrompt) -> list[str]:
    total = model_seconds(prompt.project, prompt.id)
    return [] if total is None else [f"made in {total:.0f} s"]


def _metrics(values: Mapping[str, Any], stage: bool = False) -> list[dict]:
    """Return a row for each metric of the model, or of a stage."""
    rows = []
    for name in metrics.ordered(values):
        description = metrics.describe(name, stage)
        rows.append(
            {
                "name": name.replace("_", " "),
                "value": values[name],
                "truth": description.true_value(values),
                "description": description,
            }
        )
    return rows


def _stage(project: Project, id: str, stage: str) -> dict | None:
    """Return what the page shows of a stage, or None if there is nothing to show."""
    state, output = project.stage_state(id, stage), project.output(id, stage)
    usage = read_json(state / "run.json")
    facts = [f"{usage['seconds']:.0f} s", f"{usage['peak_memory_mb']:.0f} MB", usage.get("device", "")] if usage else []
    shown = {
        "previews": [] if stage in _RESULT else _previews(state, output),
        "curves": _curves(state, output),
        "metrics": [] if stage in _RESULT else _metrics(read_json(output / "metrics.json"), stage=True),
    }
    if not any((facts, *shown.values())):
        return None
    return {"name": stage, "title": _TITLES[stage], "facts": [fact for fact in facts if fact], **shown}


def _previews(state: Path, output: Path) -> list[dict]:
    """Return the previews in the output of a finished stage, which DVC keeps, or the latest ones of a running stage."""
    folder = output if output.is_dir() else state
    paths = [path for path in (folder / PREVIEW).glob("*.png") if re.fullmatch(r".+-\d{1,9}", path.stem)]
    steps = sorted((int(path.stem.rpartition("-")[2]), path) for path in paths if path.is_file())
    return [{"path": path, "caption": f"step {step}"} for step, path in steps[-3:]]


def _curves(state: Path, output: Path) -> list[dict]:
    """Return the charts of a stage's curves."""
    # A resumed run repeats some steps, so only the last record of each step is valid.
    curves: dict[str, dict[float, float]] = {name: {} for name in _CURVES}
    for row in _points(state, output):
        for name in curves:
            if _is_finite(row.get("step")) and _is_finite(row.get(name)):
                curves[name][row["step"]] = row[name]
    drawn = {name: charts.chart(sorted(points.items())) for name, points in curves.items()}
    return [
        {"name": name.replace("_", " "), "chart": chart, "meaning": metrics.describe(name, stage=True).meaning}
        for name, chart in drawn.items()
        if chart
    ]


def _points(state: Path, output: Path) -> list[dict]:
    """Return the values of a stage's metrics by step, from its output or, while it runs, from its records."""
    try:
        rows = json.loads((output / "curve.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        found = (record for record in records.read(state / "records.jsonl")[0] if record["kind"] == "metrics")
        return [{"step": record["step"], **record["values"]} for record in found]
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


def _parameters(config: Config) -> dict[str, list[dict]]:
    """Return the parameters grouped by section, with those that differ from their defaults first."""
    default = flatten(Config().model_dump(mode="json"))
    sections = {}
    for section, values in config.model_dump(mode="json").items():
        rows = [[name, _short(value), _short(default[f"{section}.{name}"])] for name, value in flatten(values).items()]
        rows.sort(key=lambda row: row[1] == row[2])
        sections[section] = [{"cells": row, "changed": row[1] != row[2]} for row in rows]
    return sections


def _short(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
