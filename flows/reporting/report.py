"""Report page of a prompt (reports/<id>.html) with its model, metrics, stages and parameters.

The report is not the output of a stage, so no stage runs again if the layout of the page changes.
"""

import json
import os
import re
import shlex
from pathlib import Path

from flows.prompt_store.create import sections_of
from flows.reporting.html import number, polyline, render
from prolific_core.config import Config
from prolific_core.files import read_json, write_atomically
from prolific_core.prompts import DEFAULT_PRESET, Prompt
from tasks.runtime import records
from tasks.runtime.project import STAGES, Project, ResolvedPrompt
from tasks.tracking.prompt_runs import flatten

_TITLES = {
    "initialise": "Initial scene",
    "nerf": "Radiance field",
    "geometry": "Surface",
    "texture": "Texture",
    "export": "Mesh",
    "evaluate": "Evaluation",
}


def write(resolved: ResolvedPrompt) -> Path:
    """Write a prompt's report from its outputs and records, and return the path of the page."""
    project, prompt, config = resolved.project, resolved.prompt, resolved.config
    id, path = prompt.id, project.report(prompt.id)
    evaluated, mesh = project.output(id, "evaluate"), project.output(id, "export") / "mesh.glb"
    page = render(
        "report.html",
        title=prompt.text,
        chips=_chips(prompt, config) + _duration(resolved),
        turntable=evaluated / "turntable.mp4",
        contact_sheet=evaluated / "contact.png",
        mesh=mesh,
        mesh_link=Path(os.path.relpath(mesh, path.parent)).as_posix(),
        metrics=_metrics(project, id),
        stages=[_stage(project, id, stage) for stage in STAGES],
        command=command(prompt, config),
        parameters=_parameters(config),
    )
    write_atomically(path, page.encode())
    return path


def command(prompt: Prompt, config: Config) -> str:
    """Return the command that reproduces the model.

    On the same type of processor, the result is bitwise identical. If the prompt file sets parameters for which
    `prolific generate` has no option, the command is `prolific sweep ID`.
    """
    sections = {name: values for name, values in prompt.sections.items() if values}
    if sections != sections_of(config.initialise.particles, config.nerf.guidance.method):
        return shlex.join(["prolific", "sweep", prompt.id])
    parts = ["prolific", "generate"]
    if prompt.preset != DEFAULT_PRESET:
        parts += ["--preset", prompt.preset]
    if prompt.seed:
        parts += ["--seed", str(prompt.seed)]
    if config.initialise.particles != 1:
        parts += ["--particles", str(config.initialise.particles)]
    if config.nerf.guidance.method != "vsd":
        parts += ["--method", config.nerf.guidance.method]
    if prompt.forced:
        parts.append("--force")
    return shlex.join([*parts, "--", prompt.text] if prompt.text.startswith("-") else [*parts, prompt.text])


def _chips(prompt: Prompt, config: Config) -> list[str]:
    chips = [prompt.id, f"preset {prompt.preset}", f"seed {prompt.seed}"]
    chips += [config.nerf.guidance.method.upper(), f"prior {config.prior.path}"]
    if config.initialise.particles > 1:
        chips.append(f"{config.initialise.particles} particles")
    return chips


def _duration(prompt: ResolvedPrompt) -> list[str]:
    ends = [records.end_of(prompt.state(stage) / "records.jsonl", prompt.output(stage)) for stage in STAGES]
    total = records.total_seconds(end.get("seconds") for end in ends)
    return [] if total is None else [f"made in {total:.0f} s"]


def _metrics(project: Project, id: str) -> list[list[str]]:
    """Return rows of metric, stage and value. The rows of the last stage come first."""
    return [
        [name.replace("_", " "), _TITLES[stage], number(value)]
        for stage in reversed(STAGES)
        for name, value in sorted(read_json(project.output(id, stage) / "metrics.json").items())
    ]


def _stage(project: Project, id: str, stage: str) -> dict:
    state = project.stage_state(id, stage)
    usage = read_json(state / "run.json")
    facts = []
    if usage:
        facts = [f"{usage['seconds']:.0f} s", f"{usage['peak_memory_mb']:.0f} MB", usage.get("device", "")]
    elif not project.output(id, stage).is_dir():
        facts = ["has not run yet"]
    # A resumed run repeats some steps, so only the last record of each step is valid.
    losses = {}
    for record in records.read(state / "records.jsonl")[0]:
        if record["kind"] == "metrics" and record["values"].get("loss") is not None:
            losses[record["step"]] = record["values"]["loss"]
    return {
        "name": stage,
        "title": _TITLES[stage],
        "facts": [fact for fact in facts if fact],
        "previews": _previews(state),
        "curve": polyline(sorted(losses.items())),
        "last_step": max(losses, default=0),
    }


def _previews(state: Path) -> list[dict]:
    """Return the first, middle and last preview for each preview name, with captions."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted((state / "preview").glob("*.png")):
        if path.is_file() and (match := re.fullmatch(r"(.+)-(\d{1,9})", path.stem)):
            by_name.setdefault(match[1], []).append(path)
    return [
        {"path": path, "caption": f"{name}, step {int(path.stem.rpartition('-')[2])}"}
        for name, paths in by_name.items()
        for path in dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]])
    ]


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
