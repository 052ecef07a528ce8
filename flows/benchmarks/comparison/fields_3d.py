"""Runs of a comparison in 3D: ordinary prompts, whose radiance fields are made by DVC, Prefect and MLflow as all are.

Only the first two stages run, because the methods differ in the radiance field.
"""

from collections.abc import Callable
from functools import cache

import torch

from flows.benchmarks.comparison import measures
from flows.benchmarks.comparison.plan import Run, Size
from flows.orchestration import dvc_runner
from flows.prompt_store import create
from prolific_core import prompts
from prolific_core.config import NerfConfig
from prolific_core.mesh.compare import Solid
from prolific_core.prompts import Prompt
from prolific_core.toybox.evaluation.ground_truth import SIZE, Views
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import PromptRuns


def file_prompts(project: Project, runs: list[Run], size: Size, preset: str) -> dict[Run, Prompt]:
    """Create the prompt of each run, with as many steps as its evaluations allow."""
    return {run: _file(project, run, size, preset) for run in runs}


def _file(project: Project, run: Run, size: Size, preset: str) -> Prompt:
    probe = create.plan(project, create.PromptRequest(run.prompt, preset=preset, seed=run.seed))
    nerf = project.config(probe).nerf
    per_step = _evaluations_per_step(project, nerf, run) * nerf.views
    own = {"nerf": {"steps": max(1, round(size.evaluations / per_step)), "guidance": {"scale": run.scale}}}
    facts = f"{run.method} {run.scale:g} {run.prompt} {run.seed} {preset} {size.evaluations}"
    id = prompts.make_id(f"compare {facts}", distinct=True)
    return create.file_prompt(project, run.prompt, preset=preset, seed=run.seed, method=run.method, own=own, id=id)


def evaluations(project: Project, prompt: Prompt, run: Run) -> float:
    """Return the U-Net evaluations of a run."""
    nerf = project.config(prompt).nerf
    return nerf.steps * nerf.views * _evaluations_per_step(project, nerf, run)


def _evaluations_per_step(project: Project, nerf: NerfConfig, run: Run) -> float:
    guidance = nerf.guidance.model_copy(update={"method": run.method, "scale": run.scale})
    values = project.shared_config().prior
    return counted(values.path, values.dtype, guidance.model_dump_json())


@cache
def counted(path: str, dtype: str, guidance: str) -> float:
    """Count the U-Net evaluations of a step and view, with the parameters of the guidance as JSON."""
    from prolific_core import cameras
    from prolific_core.config import CameraConfig, GuidanceConfig
    from prolific_core.guidance import base, cost
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.seeding import generator

    prior = LatentDiffusion.load(path, dtype=dtype)
    config = GuidanceConfig.model_validate_json(guidance)
    guide = base.build_guidance(prior, config, "a red cube", generator=generator(0, "cost"))
    views = cameras.sample(1, CameraConfig(), generator(0, "cost cameras"))
    latents = torch.randn(1, *prior.latent_shape, generator=generator(0, "cost latents"))
    return cost.evaluations_per_step(guide, latents, views)


def make(
    project: Project, filed: dict[Run, Prompt], workers: int, done: Callable[[Run], None], last: str = "nerf"
) -> None:
    """Bring all runs up to date up to the stage `last`, `workers` of them at the same time."""
    from flows.orchestration import prefect_runtime

    prefect_runtime.set_up(project)
    from flows.compare import bring_up_to_date

    runs = {prompt.id: run for run, prompt in filed.items()}
    bring_up_to_date(list(runs), last, workers, lambda id: done(runs[id]))


def cost(project: Project, prompt: Prompt) -> dict[str, float]:
    """Return the time and the peak memory that the radiance field took, as far as they are known."""
    found = dvc_runner.cached(PromptRuns(project.resolve(prompt.id)), "nerf")
    values = {"seconds": found.seconds, "memory": found.peak_memory_mb}
    return {name: value for name, value in values.items() if value is not None}


@torch.no_grad()
def result(project: Project, prompt: Prompt) -> tuple[Views, Solid]:
    """Return views of a run's radiance field from the evaluation's cameras, over white, and the mesh of its surface."""
    from prolific_core.scenes import store
    from prolific_core.scenes.extraction import extract_surface

    (field, *_) = store.load_fields(project.output(prompt.id, "nerf"), device="cpu", backend="auto")
    image = field.render(measures.cameras(), 2 * SIZE, background="white")
    shrink = torch.nn.functional.avg_pool2d
    solid = Solid(*extract_surface(field, project.config(prompt).geometry).extract())
    return Views(shrink(image.rgb, 2), shrink(image.opacity, 2)), solid
