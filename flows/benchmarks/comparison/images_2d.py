"""Runs of a comparison in 2D, each a set of images that are optimised together, in processes of their own.

A finished run is saved, and an unfinished one resumes from its checkpoint.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from flows.benchmarks.comparison.plan import Run, Size
from prolific_core import prompts
from prolific_core.prior.location import locate
from tasks.runtime.digests import digest
from tasks.runtime.imports import imported_modules, module_file
from tasks.runtime.project import Project

PROBE = "a red cube"  # the prompt with which the evaluations of a step are counted
COMPOSITION = "prolific_core.guidance.combine.cfg"  # that of all runs


@dataclass(frozen=True)
class Outcome:
    """Result of a run: its images, the time in seconds, the steps and the U-Net evaluations per image."""

    path: Path
    seconds: float
    steps: int
    evaluations: float


@dataclass(frozen=True)
class Work:
    """A run with what a process needs to know for it. All fields can be sent to another process."""

    run: Run
    folder: Path
    prior: str
    dtype: str
    threads: int
    particles: int
    evaluations: int


def outcomes(
    project: Project, runs: list[Run], size: Size, workers: int, done: Callable[[Run], None]
) -> dict[Run, Outcome]:
    """Bring all runs up to date, `workers` of them at the same time, and return their results.

    `done` is called after each run.
    """
    values = project.shared_config()
    works = [
        Work(
            run,
            project.state / "compare" / _key(project, run, size) / _name(run),
            values.prior.path,
            values.prior.dtype,
            values.system.threads,
            size.particles,
            size.evaluations,
        )
        for run in runs
    ]
    found: dict[Run, Outcome] = {}
    for work in works:
        if (kept := _kept(work.folder)) is not None:
            found[work.run] = kept
    waiting = [work for work in works if work.run not in found]
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(max(1, min(workers, len(waiting))), mp_context=context) as pool:
        futures = {pool.submit(_perform, work): work.run for work in waiting}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                done(futures[future])
        except BaseException:
            processes = list((getattr(pool, "_processes", None) or {}).values())  # the pool forgets them
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise
    return found


def _name(run: Run) -> str:
    return prompts.make_id(f"{run.method} {run.scale:g} {run.prompt} {run.seed}", distinct=True)


def _key(project: Project, run: Run, size: Size) -> str:
    """Return a hash of the settings, the code of the run's method and the prior's weights."""
    values = project.shared_config()
    settings = (values.prior.path, values.prior.dtype, size.particles, size.evaluations, values.system.threads)
    return _hash(project.root, run.method, *settings)


@cache
def _hash(root: Path, method: str, prior: str, *settings: str | int) -> str:
    # Methods and compositions are imported by name, which their importers do not show.
    starts = ("prolific_core.experiments.study_2d", f"prolific_core.guidance.{method}", COMPOSITION)
    modules = sorted({name for start in starts for name in imported_modules(start, root)})
    files = [digest(file) for name in modules if (file := module_file(name, root))]
    return hashlib.sha256(json.dumps([files, weights(prior), prior, settings]).encode()).hexdigest()[:16]


def weights(prior: str) -> list[str]:
    """Return the digests of the parts of a prior, which are empty if it is not a folder."""
    folder = Path(locate(prior))
    return [digest(folder / part) for part in ("unet", "vae", "text_encoder", "scheduler")] if folder.is_dir() else []


def _kept(folder: Path) -> Outcome | None:
    from prolific_core.files import read_json

    facts = read_json(folder / "run.json")
    path = folder / "images.safetensors"
    return Outcome(path, **facts) if facts and path.is_file() else None


def _perform(work: Work) -> Outcome:
    """Make the images of a run in this process."""
    from tasks.runtime import machine

    machine.threads(work.threads)
    machine.set_up_torch(work.threads, "cpu")
    from prolific_core import checkpoint
    from prolific_core.experiments import study_2d
    from prolific_core.files import write_json

    prior = _prior(work.prior, work.dtype)
    per_step = _evaluations_per_step(work.prior, work.dtype, work.run.method, work.run.scale)
    began = time.monotonic()  # loading the prior and counting are not part of the run
    steps = max(1, round(work.evaluations / per_step))
    settings = study_2d.Settings(work.particles, work.particles, steps, seed=work.run.seed)
    work.folder.mkdir(parents=True, exist_ok=True)
    images = study_2d.make(prior, _method(work.run), work.run.prompt, settings, work.folder, lambda step, total: None)
    # If a run was interrupted, only the time since it was resumed is counted.
    outcome = Outcome(work.folder / "images.safetensors", time.monotonic() - began, steps, steps * per_step)
    checkpoint.save(outcome.path, {"images": images.cpu()})
    write_json(work.folder / "run.json", {k: v for k, v in asdict(outcome).items() if k != "path"})
    for state in work.folder.glob("state-*.safetensors"):
        state.unlink()
    return outcome


def _method(run: Run):
    from prolific_core.experiments import study_2d

    return study_2d.Method(f"{run.method} {run.scale:g}", run.method, run.scale)


@cache
def _prior(path: str, dtype: str):
    from prolific_core.prior.latent_diffusion import LatentDiffusion

    return LatentDiffusion.load(path, dtype=dtype)


@cache
def _evaluations_per_step(path: str, dtype: str, method: str, scale: float) -> float:
    """Count the U-Net evaluations of a step, which depend on the method and on whether the scale is 1."""
    from prolific_core import cameras
    from prolific_core.experiments import study_2d
    from prolific_core.guidance import base, cost
    from prolific_core.seeding import generator

    prior, settings = _prior(path, dtype), study_2d.Settings()
    stage = study_2d.stage_config(_method(Run(method, scale, PROBE, 0)), settings, steps=1, batch=1)
    guide = base.build_guidance(prior, stage.guidance, PROBE, generator=generator(0, "cost"))
    views = cameras.sample(1, stage.cameras, generator(0, "cost cameras"))
    import torch

    latents = torch.randn(1, *prior.latent_shape, generator=generator(0, "cost latents"))
    return cost.evaluations_per_step(guide, latents, views)
