"""`prolific bench quality`: fixed prompts and seeds, judged by a classifier that saw true renders only.

Every run is a prompt on file like any other, so what is finished is not made again and an
interrupted bench goes on where it was.
"""

import json
from dataclasses import asdict, dataclass

from flows.generate import generate
from flows.prompt_store import create
from prolific_core.errors import InputError
from tasks.runtime.project import Project

# Half of them with parts; those with a front are of families whose front the judge finds on true renders.
PROMPTS = (
    "a red mushroom", "a blue cube", "a green cone", "a purple ball", "a pink ring", "a green cylinder",
    "a red mug", "a blue chair", "a yellow house", "a white snowman", "a green car", "an orange rocket",
)  # fmt: skip
METHODS = ("initial", "sds", "vsd")


@dataclass(frozen=True)
class Row:
    """Means over the runs of one prompt and method, of what `tasks/evaluate.py` measures.

    saturation_error: how far from 1 the ratio is. one_front: the share of runs with at most one front, for
    families that have one.
    """

    prompt: str
    method: str
    runs: int
    family_agreement: float
    colour_agreement: float
    occupied_ratio: float | None = None
    saturation_ratio: float | None = None
    saturation_error: float | None = None
    kernel_distance: float | None = None
    one_front: float | None = None
    alignment: float | None = None


COLUMNS = {
    "family_agreement": "family", "colour_agreement": "colour", "occupied_ratio": "occupied", "saturation_ratio": "saturation",
    "saturation_error": "its error", "kernel_distance": "kernel distance", "one_front": "one front",
}  # fmt: skip


def quality(project: Project, *, prompts: list[str], seeds: int, methods: list[str], preset: str) -> list[Row]:
    """One row per prompt and method; "initial" judges the field before any guidance."""
    rows = []
    for text in prompts:
        for method in methods:
            runs = [_metrics(project, text, method, seed, preset) for seed in range(seeds)]
            runs = [run | _derived(run) for run in runs]
            names = set.intersection(*(set(run) for run in runs))
            if "family_agreement" not in names:
                raise InputError(f"{text!r} cannot be judged: the Toybox's world has no such family and colour")
            means = {name: sum(run[name] for run in runs) / len(runs) for name in names}
            kept = {name: means[name] for name in Row.__dataclass_fields__ if name in means}
            rows.append(Row(text, method, len(runs), **kept))
    return rows


def _derived(run: dict) -> dict:
    """What is a mean over runs of something else than a measure of one."""
    values = {}
    if "saturation_ratio" in run:
        values["saturation_error"] = abs(run["saturation_ratio"] - 1)
    if "fronts" in run:
        values["one_front"] = float(run["fronts"] <= 1)
    return values


def table(rows: list[Row]) -> str:
    """The rows and their means as a Markdown table."""
    lines = ["| prompt | method | runs | " + " | ".join(COLUMNS.values()) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    lines += [_line(row.prompt, row.method, [row]) for row in rows]
    for method in dict.fromkeys(row.method for row in rows):
        lines.append(_line("all", method, [row for row in rows if row.method == method]))
    return "\n".join(lines)


def _line(prompt: str, method: str, rows: list[Row]) -> str:
    cells = [_mean([getattr(row, name) for row in rows if getattr(row, name) is not None]) for name in COLUMNS]
    return f"| {prompt} | {method} | {sum(row.runs for row in rows)} | " + " | ".join(cells) + " |"


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else ""


def _metrics(project: Project, text: str, method: str, seed: int, preset: str) -> dict:
    if method == "initial":
        return _initial(project, create.file_prompt(project, text, preset=preset, seed=seed))
    prompt = create.file_prompt(project, text, preset=preset, seed=seed, method=method)
    return generate(project, prompt.id).metrics


def _initial(project: Project, prompt) -> dict:
    """The judge on the initial field itself, from the evaluation's own cameras, over white."""
    import torch

    from prolific_core import cameras
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.seeding import generator
    from prolific_core.toybox.evaluation.agreement import agreement
    from prolific_core.toybox.evaluation.ground_truth import (
        Views,
        against_truth,
        fronts,
        true_views,
    )

    config = project.config(prompt)
    field = RadianceField(config.initialise.field, generator=generator(prompt.seed, "field", 0))
    look = config.evaluate
    views = cameras.orbit(look.views, elevation=look.elevation, distance=look.distance, fov=look.fov)
    with torch.no_grad():
        field.update_occupancy(0, generator(prompt.seed, "occupancy", 0))
        picture = field.render(views, look.resolution, background="white")
    made, truth = Views(picture.rgb, picture.opacity), true_views(prompt.text, views)
    found = agreement(made.rgb, prompt.text) | fronts(prompt.text, made.rgb)
    return found | ({} if truth is None else against_truth(made, truth))


def as_json(rows: list[Row]) -> str:
    return json.dumps({"rows": [asdict(row) for row in rows]})
