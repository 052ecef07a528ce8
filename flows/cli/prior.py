"""Computation behind `prolific prior`: samples of the 2D model, and its metrics on the Toybox world."""

import os
from pathlib import Path

from prolific_core.errors import InputError
from tasks.runtime.project import Project


def sample(project: Project, text: str, *, count: int, out: Path, scale: float, seed: int, steps: int) -> Path:
    """Write a grid of `count` DDIM samples as one PNG and return its path."""
    from prolific_core import config, prompts
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.seeding import generator
    from prolific_core.visualisation import contact_sheet
    from tasks.runtime.job import save_png
    from tasks.runtime.machine import set_up_torch

    text, out = prompts.check_text(text), out.resolve()
    if not out.parent.is_dir():
        raise InputError(f"--out: no such folder: {out.parent}")
    os.chdir(project.root)  # Paths in the parameters are relative to it.
    settings = config.resolve(("params.yaml", prompts.read_yaml(project.root / "params.yaml", "params.yaml") or {}))
    device = set_up_torch(settings.system.threads, settings.system.device)
    prior = LatentDiffusion.load(settings.prior.path, device=device, dtype=settings.prior.dtype)
    images = prior.sample([text] * count, scale=scale, steps=steps, generator=generator(seed, "sample"))
    save_png(out, contact_sheet(images.cpu(), columns=min(count, 8)))
    return out


def check(project: Project, path: str | None, samples: int) -> dict:
    """Return the metrics of a prior of the Toybox world: the packaged one, or one in a folder."""
    from prolific_core import config, prompts
    from prolific_core.prior.location import locate
    from prolific_core.toybox.evaluation.check import measure
    from tasks.runtime.console import Console
    from tasks.runtime.machine import set_up_torch
    from tasks.runtime.records import EtaEstimator

    os.chdir(project.root)
    settings = config.resolve(("params.yaml", prompts.read_yaml(project.root / "params.yaml", "params.yaml") or {}))
    folder = Path(locate(path or "toybox"))
    if not folder.is_dir():
        raise InputError(f"--prior {path}: only a folder with a model of the Toybox world can be checked")
    set_up_torch(settings.system.threads, "cpu")
    console, pace = Console("check"), EtaEstimator()
    numbers = measure(folder, samples, progress=lambda done, total: console.step(done, total, pace.left(done, total)))
    console.close()
    return numbers


def table(numbers: dict) -> str:
    """Return a table of the metrics and their goals, with the classifier's fractions of right answers."""
    from prolific_core.toybox.evaluation.check import GOALS

    lines = [f"{'number':26} {'value':>8}  goal"]
    for name, (goal, more) in GOALS.items():
        value = numbers[name]
        met = value >= goal if more else value <= goal
        lines.append(
            f"{name:26} {value:8.3f}  {goal:g} or {'more' if more else 'less'}{'' if met else ': not reached'}"
        )
    lines.append(f"{'frechet_ratio, autoencoder':26} {numbers['frechet_ratio_of_autoencoder']:8.3f}  (its floor)")
    lines += [
        "",
        f"of {numbers['samples']} samples at CFG {numbers['cfg']:g}; fraction right on true renders and on samples:",
    ]
    for group, right in numbers["shares"].items():
        heads = (f"{head} {right['truth'][head]:.2f} {right['samples'][head]:.2f}" for head in right["truth"])
        lines.append(f"  {group:8} ({right['count']}) " + ", ".join(heads))
    return "\n".join(lines)
