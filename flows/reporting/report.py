"""One static page per prompt: the model from all sides, its metrics, how it came about, the command.

It lies beside runs/, not in it, and is made from what is there: changing the page re-runs nothing.
"""

import json
import os
import shlex
from pathlib import Path

from flows.prompt_store.create import sections_of
from flows.reporting.html import curve, document, escape, inline, number, table
from prolific_core.config import Config
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
    """Make reports/<id>.html from the prompt's outputs and records; its path."""
    project, prompt, config = resolved.project, resolved.prompt, resolved.config
    id, path = prompt.id, project.report(prompt.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(
        [
            _head(prompt, config),
            _hero(project, prompt, path.parent),
            "<h2>Metrics</h2>" + _metrics(project, id),
            "<h2>How it came about</h2>" + _stages(project, id),
            "<h2>Make it again</h2>" + f"<pre>{escape(command(prompt, config))}</pre>",
            "<h2>Parameters</h2>" + _parameters(config),
        ]
    )
    partial = path.with_name(f".{path.name}")
    partial.write_text(document(prompt.text, body), encoding="utf-8")
    partial.replace(path)
    return path


def command(prompt: Prompt, config: Config) -> str:
    """What to type for the same bytes (on the same processor type).

    A prompt with numbers of its own has no other description than its file.
    """
    own = {name: values for name, values in prompt.sections.items() if values}
    if own != sections_of(config.initialise.particles, config.nerf.guidance.method):
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
    return shlex.join([*parts, "--", prompt.text] if prompt.text.startswith("-") else [*parts, prompt.text])


def _head(prompt: Prompt, config: Config) -> str:
    chips = [
        prompt.id,
        f"preset {prompt.preset}",
        f"seed {prompt.seed}",
        config.nerf.guidance.method.upper(),
        f"prior {config.prior.path}",
    ]
    if config.initialise.particles > 1:
        chips.append(f"{config.initialise.particles} particles")
    return (
        f"<h1>{escape(prompt.text)}</h1>\n"
        f'<p class="chips">{"".join(f"<span>{escape(chip)}</span>" for chip in chips)}</p>'
    )


def _hero(project: Project, prompt: Prompt, place: Path) -> str:
    evaluated, exported = project.output(prompt.id, "evaluate"), project.output(prompt.id, "export")
    figures = []
    video, sheet, model = evaluated / "turntable.mp4", evaluated / "contact.png", exported / "mesh.glb"
    if video.is_file():
        figures.append(
            f'<figure class="card"><video src="{inline(video)}" autoplay loop muted playsinline controls></video>'
            "<figcaption>Turntable</figcaption></figure>"
        )
    if sheet.is_file():
        caption = "From all sides"
        if model.is_file():
            link = escape(Path(os.path.relpath(model, place)).as_posix())
            caption += f' &middot; <a href="{link}">mesh.glb</a>, {model.stat().st_size / 1e6:.1f} MB'
        figures.append(
            f'<figure class="card"><img src="{inline(sheet)}" alt="{escape(prompt.text)}, from all sides">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<div class="hero">{"".join(figures)}</div>'


def _metrics(project: Project, id: str) -> str:
    rows = []
    for stage in reversed(STAGES):  # what is asked first comes first
        for name, value in sorted(_json(project.output(id, stage) / "metrics.json").items()):
            rows.append([name.replace("_", " "), _TITLES[stage], number(value)])
    return table(["measure", "of", "value"], rows) if rows else '<p class="soft">None yet.</p>'


def _stages(project: Project, id: str) -> str:
    cards = []
    for stage in STAGES:
        state = project.stage_state(id, stage)
        usage = _json(state / "run.json")
        facts = []
        if usage:
            facts = [f"{usage['seconds']:.0f} s", f"{usage['peak_memory_mb']:.0f} MB", usage.get("device", "")]
        elif not project.output(id, stage).is_dir():
            facts = ["not made yet"]
        found, _ = records.read(state / "records.jsonl")
        # A resumed run takes some steps again: the last word counts.
        loss = sorted(
            {
                record["step"]: record["values"]["loss"]
                for record in found
                if record["kind"] == "metrics" and record["values"].get("loss") is not None
            }.items()
        )
        cards.append(
            f'<div class="card"><h3>{_TITLES[stage]} <span class="soft"><code>{stage}</code></span></h3>'
            f'<p class="soft">{" &middot; ".join(escape(fact) for fact in facts if fact)}</p>'
            + "".join(_pictures(state))
            + (curve(loss) + f'<p class="soft">loss over {loss[-1][0]} steps</p>' if len(loss) > 1 else "")
            + "</div>"
        )
    return f'<div class="grid">{"".join(cards)}</div>'


def _pictures(state: Path) -> list[str]:
    """Of each name the first, a middle and the last picture, in the order they were made."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted((state / "preview").glob("*.png")):
        by_name.setdefault(path.stem.rpartition("-")[0], []).append(path)
    shown = []
    for name, paths in by_name.items():
        for path in dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]):
            step = int(path.stem.rpartition("-")[2])
            alt = escape(f"{name}, step {step}")
            shown.append(f'<figure><img src="{inline(path)}" alt="{alt}"><figcaption>{alt}</figcaption></figure>')
    return shown


def _parameters(config: Config) -> str:
    """All of them, folded away by section; what differs from the default is named first."""
    parts = []
    default = flatten(Config().model_dump(mode="json"))
    for section, values in config.model_dump(mode="json").items():
        rows = [[name, _short(value), _short(default[f"{section}.{name}"])] for name, value in flatten(values).items()]
        rows.sort(key=lambda row: row[1] == row[2])
        changed = sum(row[1] != row[2] for row in rows)
        head = f"<summary><code>{section}</code> <span class=soft>{changed} of {len(rows)} changed</span></summary>"
        parts.append(f"<details>{head}{table(['parameter', 'value', 'default'], rows, numbers=2)}</details>")
    return "".join(parts)


def _short(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
