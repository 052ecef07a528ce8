"""Quality benchmark on fixed prompts and seeds (`prolific bench quality`).

Every model is evaluated with a classifier that was trained only on true renders. The runs use ordinary prompts, so
finished runs are not repeated and an interrupted benchmark continues where it stopped.
"""

from dataclasses import dataclass

from flows.benchmarks import results
from flows.orchestration import prefect_runtime
from flows.prompt_store import create
from prolific_core.errors import InputError
from prolific_core.toybox.world.captions import parse
from tasks.runtime.project import Project

# Half of the objects consist of several parts. The classifier detects the front of every family that has one.
PROMPTS = (
    "a red mushroom", "a blue cube", "a green cone", "a purple ball", "a pink ring", "a green cylinder",
    "a red mug", "a blue chair", "a yellow house", "a white snowman", "a green car", "an orange rocket",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Mean metrics of tasks/evaluate.py over the runs of one prompt and method.

    `saturation_error` is the absolute difference between the saturation ratio and 1. `one_front` is the Janus-free
    rate: the fraction of runs with at most one detected front, for families that have a front.
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
    kernel_distance_excess: float | None = None
    iou: float | None = None
    chamfer: float | None = None
    one_front: float | None = None
    alignment: float | None = None


COLUMNS = {
    "family_agreement": "family",
    "colour_agreement": "colour",
    "occupied_ratio": "occupied",
    "saturation_ratio": "saturation",
    "saturation_error": "saturation error",
    "kernel_distance": "kernel distance",
    "kernel_distance_excess": "excess",
    "iou": "IoU",
    "one_front": "Janus-free rate",
}


def quality(project: Project, *, prompts: list[str], seeds: int, methods: list[str], preset: str) -> list[Row]:
    """Run the benchmark and return one row per prompt and method.

    The method "initial" evaluates the radiance field before any guidance.
    """
    check_prompts(prompts)  # before hours of work
    rows = []
    for text in prompts:
        for method in methods:
            runs = [_metrics(project, text, method, seed, preset) for seed in range(seeds)]
            runs = [run | _derived(run) for run in runs]
            names = set.intersection(*(set(run) for run in runs))
            if "family_agreement" not in names:
                raise InputError("the classifier of the Toybox is missing; reinstall the package")
            means = {name: sum(run[name] for run in runs) / len(runs) for name in names}
            kept = {name: means[name] for name in Row.__dataclass_fields__ if name in means}
            rows.append(Row(text, method, len(runs), **kept))
    return rows


def check_prompts(prompts: list[str]) -> None:
    """Raise an InputError unless each prompt names one kind of object and one colour, so that its truth is known."""
    for text in prompts:
        if parse(text) is None:
            raise InputError(
                f"the prompt must name one kind of object and one colour of the Toybox world, got {text!r} "
                "(see `prolific prior vocabulary`)"
            )


def _derived(run: dict) -> dict:
    """Compute `saturation_error` and `one_front` from the metrics of a run."""
    values = {}
    if "saturation_ratio" in run:
        values["saturation_error"] = abs(run["saturation_ratio"] - 1)
    if "fronts" in run:
        values["one_front"] = float(run["fronts"] <= 1)
    return values


def table(rows: list[Row]) -> str:
    """Format the rows and the means of each method as a Markdown table."""
    lines = [(row.prompt, row.method, [row]) for row in rows]
    for method in dict.fromkeys(row.method for row in rows):
        lines.append(("all", method, [row for row in rows if row.method == method]))
    cells = (
        (prompt, method, sum(row.runs for row in some), *(_mean(some, name) for name in COLUMNS))
        for prompt, method, some in lines
    )
    return results.table(["prompt", "method", "runs", *COLUMNS.values()], cells, ".2f")


def _mean(rows: list[Row], name: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return sum(values) / len(values) if values else None


def _metrics(project: Project, text: str, method: str, seed: int, preset: str) -> dict:
    if method == "initial":
        return _initial(project, create.file_prompt(project, text, preset=preset, seed=seed))
    prompt = create.file_prompt(project, text, preset=preset, seed=seed, method=method)
    prefect_runtime.set_up(project)
    from flows.generate import generate

    return prefect_runtime.run_flow(generate, prompt.id).metrics


def _initial(project: Project, prompt) -> dict:
    """Evaluate the initial radiance field on a white background with the cameras of the stage `evaluate`."""
    import torch

    from prolific_core import cameras
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.seeding import generator
    from prolific_core.toybox.evaluation.agreement import agreement
    from prolific_core.toybox.evaluation.ground_truth import (
        Views,
        against_truth,
        fronts,
        own_distance,
        true_views,
    )

    config = project.config(prompt)
    field = RadianceField(config.initialise.field, generator=generator(prompt.seed, "field", 0))
    look = config.evaluate
    views = cameras.orbit(look.views, elevation=look.elevation, distance=look.distance, fov=look.fov)
    with torch.no_grad():
        field.update_occupancy(0, generator(prompt.seed, "occupancy", 0))
        image = field.render(views, look.resolution, background="white")
    made, truth = Views(image.rgb, image.opacity), true_views(prompt.text, views)
    found = agreement(made.rgb, prompt.text) | fronts(prompt.text, made.rgb)
    if truth is None:
        return found
    return found | against_truth(made, truth, own_distance(prompt.text, views, truth))
