"""Comparison of guidance methods and of systems (`prolific compare`).

Every method has the same number of U-Net evaluations. Its guidance scale is chosen first, with prompts that are not in
the table. A system has the steps of the preset and its own scales. Finished runs are kept, so that an interrupted
comparison continues where it stopped.
"""

import hashlib
import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from flows.benchmarks.comparison import fields_3d, finished, images_2d, measures, plan, summary, systems_3d
from flows.benchmarks.comparison.finished import Finished
from flows.benchmarks.comparison.plan import Run, Size
from flows.reporting import comparison
from flows.reporting.comparison import Section
from prolific_core import checkpoint
from prolific_core.discovery import guidance_methods
from prolific_core.errors import InputError
from prolific_core.files import write_atomically, write_json
from prolific_core.mesh.compare import Solid
from prolific_core.metrics.intervals import Interval
from prolific_core.prompts import Prompt
from prolific_core.toybox.evaluation.ground_truth import Views
from prolific_core.toybox.world import draw as world
from tasks.runtime.console import announce
from tasks.runtime.project import Project
from tasks.runtime.revision import revision
from tasks.tracking.tracker import remember

REFERENCES = {"2d": "vsd", "3d": "vsd", "systems": "prolificdreamer"}
TITLES = {"2d": "Images (2D)", "3d": "Radiance fields (3D)", "systems": "Systems (final models)"}
SHOWN = 4  # images per prompt and method on the page
NOTES = {
    "quick": "Smoke test, no conclusions: too few prompts, seeds and steps.",
    "default": "Few prompts: the intervals are too narrow for conclusions about other prompts.",
    "full": "",
}


@dataclass
class Space:
    """Results of a comparison in 2D, in 3D or of systems, whose names are then those of the methods."""

    name: str
    size: Size
    scales: dict[str, float]
    results: dict[Run, Finished] = field(repr=False)
    tuning: dict[Run, Finished] = field(default_factory=dict, repr=False)
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def found(self) -> dict[Run, dict[str, float]]:
        return {run: result.metrics for run, result in self.results.items()}

    @property
    def first_seed(self) -> int:
        """The seed whose images the page shows."""
        return min(run.seed for run in self.results)

    @property
    def means(self) -> dict[str, dict[str, Interval]]:
        return summary.means(self.found)

    @property
    def note(self) -> str:
        """Sentences about the number of runs, their cost and the scales from which each method's was chosen."""
        prompts, size = len({run.prompt for run in self.found}), self.size
        if self.name == "systems":
            cost = "the steps and the sizes are those of the preset, so that the cost differs"
            return (
                f"Prompts: {prompts}; seeds: {size.seeds}; {cost}. Scales are those of the first stage with guidance."
            )
        per = f"image, {size.particles} images per run" if self.name == "2d" else "radiance field"
        tried = ", ".join(f"{scale:g}" for scale in size.scales)
        chosen = f"Scales, chosen with other prompts: {tried}." if len(size.scales) > 1 else f"Only scale: {tried}."
        cost = f"about {size.evaluations} U-Net evaluations per {per}"
        return f"Prompts: {prompts}; seeds: {size.seeds}; {cost}. {chosen}"

    @property
    def reference(self) -> str:
        return REFERENCES[self.name]

    @property
    def differences(self) -> list[summary.Difference]:
        return summary.differences(self.found, self.reference) if self.reference in self.scales else []


def run(
    project: Project,
    form: str,
    *,
    spaces: list[str],
    methods: list[str],
    systems: list[str],
    prompts: list[str],
    seeds: int | None,
    evaluations: int | None,
    workers: int,
    preset: str,
    out: Path,
    reuse: Path | None = None,
) -> list[Space]:
    """Run a comparison, write its table and page to `out`, and return its results.

    Args:
        project: The project.
        form: A key of `plan.SIZES`.
        spaces: "2d", "3d" or both; not used if systems are compared.
        methods: Names of guidance methods; empty for those of the form.
        systems: Names of systems, which are compared instead of methods; empty to compare methods.
        prompts: Prompts; empty for those of the form.
        seeds: Number of seeds; None for that of the form.
        evaluations: U-Net evaluations of each method; None for those of the form.
        workers: Number of runs at the same time.
        preset: Preset of the runs in 3D.
        out: Folder of compare.md, compare.json, compare.html and images.
        reuse: Such a folder, whose runs are not made again.

    Raises:
        InputError: A prompt cannot be compared, the runs in `reuse` were made under other conditions, or the new table
            would replace that in `reuse` without some of its runs.
    """
    for text in prompts:
        if world.parse(text) is None:
            raise InputError(f"the prompt must name an object and a colour of the Toybox world, got {text!r}")
        if text in plan.TUNING_PROMPTS:
            raise InputError(f"{text!r} is used to choose the guidance scales and cannot be in the table")

    planned: list[tuple[_Work, list[str], list[str]]] = []
    for name in ["systems"] if systems else spaces:
        size = plan.SIZES[form]["3d" if systems else name]  # systems have the prompts and seeds of the form in 3D
        size = plan.changed(size, seeds=seeds, prompts=len(prompts) or None, evaluations=0 if systems else evaluations)
        chosen = systems or methods or list(size.methods) or guidance_methods()
        work = _Work(project, name, size, workers, preset, reuse)
        planned.append((work, chosen, prompts or list(plan.PROMPTS[: size.prompts])))
    if reuse == out:
        finished.check_spaces(out, [work.space for work, _, _ in planned])
        for work, chosen, texts in planned:
            table = plan.table_runs(dict.fromkeys(chosen, 0.0), texts, work.size.seeds)
            finished.check_kept(out, work.space, work.reused, [(run.method, run.prompt, run.seed) for run in table])
    done = [_systems(*part) if systems else _methods(*part) for part in planned]
    _write(project, form, done, out)
    return done


def _methods(work: "_Work", methods: list[str], prompts: list[str]) -> Space:
    """Choose the scale of each guidance method, then run and measure them."""
    size = work.size
    tuned = work.measured(plan.tuning(methods, size))
    scales = plan.best_scales(methods, size, {run: result.metrics["excess"] for run, result in tuned.items()})
    found = work.measured(plan.table_runs(scales, prompts, size.seeds))
    tuned = {run: replace(result, picture=None) for run, result in tuned.items()}
    return Space(work.space, size, scales, found, tuned, work.conditions)


def _systems(work: "_Work", systems: list[str], prompts: list[str]) -> Space:
    """Run and measure systems."""
    scales = {system: systems_3d.scale(work.project, system, work.preset) for system in systems}
    found = work.measured(plan.table_runs(scales, prompts, work.size.seeds))
    return Space("systems", work.size, scales, found, conditions=work.conditions)


class _Work:
    """Runs and measures the runs of one space, except those that another comparison has made."""

    def __init__(self, project: Project, space: str, size: Size, workers: int, preset: str, reuse: Path | None):
        self.project, self.space, self.size, self.workers, self.preset = project, space, size, workers, preset
        self.commit = revision(project.root)
        self.conditions = self._conditions()
        self.reused = {} if reuse is None else finished.read(reuse, space, self.conditions)

    def _conditions(self) -> dict[str, Any]:
        """Return what all runs of the table have in common, apart from the version of the code."""
        config = self.project.shared_config()
        if self.space != "2d":
            config = self.project.config(Prompt(id="compare", text="a red cube", preset=self.preset))
        prior, parts = config.prior.path, images_2d.weights(config.prior.path)
        if config.prior.dtype != "float32":
            prior += f" {config.prior.dtype}"
        if parts:
            prior += f" {hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}"
        own = {"particles": self.size.particles} if self.space == "2d" else {"preset": self.preset}
        return {"evaluations": self.size.evaluations, "prior": prior, **own}

    def measured(self, runs: list[Run]) -> dict[Run, Finished]:
        """Bring all runs up to date and return their results."""
        missing = [run for run in runs if run not in self.reused]
        if runs:
            reused = f", and {len(runs) - len(missing)} reused" if self.reused else ""
            announce(f"compare {self.space}: {len(missing)} runs{reused}")
        made = self._make(missing) if missing else {}
        results = {run: made.get(run) or self.reused[run] for run in runs}
        if self.space != "2d":
            _add_diversity(results)
        return results

    def _make(self, runs: list[Run]) -> dict[Run, Finished]:
        count = 0

        def done(run: Run) -> None:
            nonlocal count
            count += 1
            announce(f"compare {self.space}: {run} ({count} finished of {len(runs)} or fewer)")

        if self.space == "2d":
            outcomes = images_2d.outcomes(self.project, runs, self.size, self.workers, done)
            return {run: self._of_images(run, outcomes[run]) for run in runs}
        if self.space == "systems":
            prompts = systems_3d.file_prompts(self.project, runs, self.preset)
            systems_3d.make(self.project, prompts, self.workers, done)
            return {run: self._of_model(run, prompts[run]) for run in runs}
        prompts = fields_3d.file_prompts(self.project, runs, self.size, self.preset)
        fields_3d.make(self.project, prompts, self.workers, done)
        return {run: self._of_field(run, prompts[run]) for run in runs}

    def _of_images(self, run: Run, outcome: images_2d.Outcome) -> Finished:
        images = checkpoint.load(outcome.path)["images"]
        cost = {"seconds": outcome.seconds / len(images), "evaluations": outcome.evaluations}
        metrics = measures.of_images(run.prompt, images) | cost
        return Finished(metrics, self.commit, comparison.picture(images[:SHOWN]))

    def _of_field(self, run: Run, prompt: Any) -> Finished:
        evaluations = {"evaluations": fields_3d.evaluations(self.project, prompt, run)}
        cost = evaluations | fields_3d.cost(self.project, prompt)
        return self._of_object(run, *fields_3d.result(self.project, prompt), cost)

    def _of_model(self, run: Run, prompt: Any) -> Finished:
        evaluations = {"evaluations": systems_3d.evaluations(self.project, prompt)}
        cost = evaluations | systems_3d.cost(self.project, prompt)
        return self._of_object(run, *systems_3d.result(self.project, prompt), cost)

    def _of_object(self, run: Run, views: Views, solid: Solid, cost: dict[str, float]) -> Finished:
        metrics, features = measures.of_object(run.prompt, views, solid)
        shown = views.rgb[:: max(1, len(views.rgb) // SHOWN)][:SHOWN]
        return Finished(metrics | cost, self.commit, comparison.picture(shown), features.tolist())


def _add_diversity(results: dict[Run, Finished]) -> None:
    """Add the diversity over the seeds of a prompt to the metrics of each of its runs."""
    groups: dict[tuple[str, float, str], list[Finished]] = {}
    for run, result in results.items():
        groups.setdefault((run.method, run.scale, run.prompt), []).append(result)
    for (_, _, text), group in groups.items():
        if len(group) > 1:
            vectors = torch.tensor([result.features for result in group])
            values = measures.diversity_of_objects(text, vectors)
            for result in group:
                result.metrics.update(values)


def text(form: str, spaces: list[Space]) -> str:
    """Return the tables in Markdown."""
    parts = []
    for space in spaces:
        parts.append(f"## {TITLES[space.name]}\n\n{space.note} {NOTES[form]}".rstrip())
        parts.append(summary.table(space.means, space.scales))
        if space.differences:
            parts.append(f"Difference to {space.reference}, for the same prompt and seed:")
            parts.append(summary.differences_table(space.differences))
    return "\n\n".join(parts)


def section(space: Space) -> Section:
    """Return the part of the page about one space."""
    means = space.means
    names = [name for name in summary.COLUMNS if any(name in row for row in means.values())]
    prompts, first = list(dict.fromkeys(run.prompt for run in space.results)), space.first_seed
    pictures = {(run.method, run.prompt): r.picture for run, r in space.results.items() if run.seed == first}
    return Section(
        title=TITLES[space.name],
        note=space.note,
        prompts=prompts,
        columns=[summary.COLUMNS[name][0] for name in names],
        rows=[(method, space.scales[method], [row.get(name) for name in names]) for method, row in means.items()],
        reference=space.reference,
        differences=[(d.method, summary.compared_name(d.metric), d.interval, d.verdict) for d in space.differences],
        pictures=[(method, [pictures[method, prompt] for prompt in prompts]) for method in space.scales],
    )


def _with_pictures_of_the_first_seed(space: Space) -> dict[Run, Finished]:
    """Return the results without the pictures that the page does not show."""
    first = space.first_seed
    return {run: r if run.seed == first else replace(r, picture=None) for run, r in space.results.items()}


def _write(project: Project, form: str, spaces: list[Space], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    commits = dict.fromkeys(result.commit for space in spaces for result in space.results.values())
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": ", ".join(str(commit) for commit in commits),
        "command": shlex.join(["prolific", *sys.argv[1:]]),
    }
    values = facts | {
        "form": form,
        **{
            space.name: {
                "size": asdict(space.size),
                "scales": space.scales,
                "conditions": space.conditions,
                **summary.as_json(space.means, space.differences),
                "tuning": finished.write(out, space.name, space.tuning),
                "runs": finished.write(out, space.name, _with_pictures_of_the_first_seed(space)),
            }
            for space in spaces
        },
    }
    head = f"{facts['date']}, commit `{facts['commit']}`: `{facts['command']}`"
    files = [out / "compare.md", out / finished.JSON, out / "compare.html"]
    write_atomically(files[0], f"# Comparison of methods\n\n{head}\n\n{text(form, spaces)}\n".encode())
    write_json(files[1], values)
    write_atomically(files[2], comparison.page(facts, NOTES[form], [section(space) for space in spaces]).encode())
    for space in spaces:
        tracked = {f"{m} {name}": value.mean for m, row in space.means.items() for name, value in row.items()}
        parameters = {f"scale {m}": scale for m, scale in space.scales.items()} | asdict(space.size)
        remember(project, "compare", f"{form} {space.name} {sorted(space.scales)}", parameters, tracked, files)
