"""Runs of a comparison of systems: ordinary prompts, whose exported models are compared.

The prompts are those of `prolific generate --system`, with the steps and the sizes of the preset.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from flows.benchmarks.comparison import fields_3d, measures
from flows.benchmarks.comparison.plan import Run
from flows.orchestration import dvc_runner
from flows.prompt_store import create
from prolific_core import prompts
from prolific_core.config import Config, StageConfig
from prolific_core.mesh.compare import Solid
from prolific_core.prompts import Prompt
from prolific_core.seeding import generator
from prolific_core.toybox.evaluation.ground_truth import SIZE, Views
from tasks.runtime.project import STAGES, Project
from tasks.tracking.prompt_runs import PromptRuns

LAST = "export"  # the stage whose result is compared
BEFORE = list(STAGES)[: list(STAGES).index(LAST) + 1]


def scale(project: Project, system: str, preset: str) -> float:
    """Return the guidance scale of a system in its first stage with guidance, for the table."""
    probe = Prompt(id="compare", text="a red cube", preset=preset, system_name=system)
    values = project.config(probe)
    guided = [stage for _, stage in values if isinstance(stage, StageConfig) and stage.steps > 0]
    return (guided or [values.nerf])[0].guidance.scale


def file_prompts(project: Project, runs: list[Run], preset: str) -> dict[Run, Prompt]:
    """Create the prompt of each run, whose method is a system."""
    return {run: _file(project, run, preset) for run in runs}


def _file(project: Project, run: Run, preset: str) -> Prompt:
    """Create the prompt of a run, which is that of `prolific generate` unless a user has set its parameters."""
    request = create.PromptRequest(run.prompt, seed=run.seed, preset=preset, system=run.method)
    usual = create.plan(project, request)
    changed = project.config(usual) != project.config(replace(usual, sections={}))
    facts = f"compare {run.method} {run.prompt} {run.seed} {preset}"
    id = prompts.make_id(facts, distinct=True) if changed else None
    return create.file_prompt(project, run.prompt, preset=preset, system=run.method, seed=run.seed, id=id)


def make(project: Project, filed: dict[Run, Prompt], workers: int, done: Callable[[Run], None]) -> None:
    """Bring the models of all runs up to date, `workers` of them at the same time."""
    fields_3d.make(project, filed, workers, done, LAST)


def evaluations(project: Project, prompt: Prompt) -> float:
    """Return the U-Net evaluations of all stages of a run."""
    values = project.config(prompt)
    return sum(_evaluations(values, getattr(values, name)) for name in BEFORE)


def _evaluations(values: Config, stage: object) -> float:
    if not isinstance(stage, StageConfig) or stage.steps == 0:
        return 0.0
    guidance = stage.guidance.model_dump_json()
    return stage.steps * stage.views * fields_3d.counted(values.prior.path, values.prior.dtype, guidance)


def cost(project: Project, prompt: Prompt) -> dict[str, float]:
    """Return the time of all stages together and their peak memory, as far as they are known."""
    runs = PromptRuns(project.resolve(prompt.id))
    found = [dvc_runner.cached(runs, name) for name in BEFORE]
    seconds = [stage.seconds for stage in found if stage.seconds is not None]
    memory = [stage.peak_memory_mb for stage in found if stage.peak_memory_mb is not None]
    values = {"seconds": sum(seconds)} if len(seconds) == len(found) else {}
    return values | ({"memory": max(memory)} if memory else {})


@torch.no_grad()
def result(project: Project, prompt: Prompt) -> tuple[Views, Solid]:
    """Return views of a run's exported model from the evaluation's cameras, over white, and its mesh.

    Materials are lit as in the stages `texture` and `evaluate`.
    """
    from prolific_core.mesh.export import load_glb
    from prolific_core.render.mesh.lights import studio

    lighting = studio(generator(prompt.seed, "light"))
    views, path = measures.cameras(), project.output(prompt.id, LAST) / "mesh.glb"
    model = load_glb(path, device="cpu", lighting=lighting)
    renders = [model.render(views[i], SIZE, 1.0, supersampling=2) for i in range(len(views))]
    images = (torch.cat([getattr(render, name) for render in renders]) for name in ("rgb", "opacity"))
    return Views(*images), Solid(model.welded_vertices, model.welded_faces)
