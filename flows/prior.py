"""`prolific prior sample`: what the 2D model itself makes of a sentence."""

import os
from pathlib import Path

from prolific_core.errors import InputError
from tasks.project import Project


def sample(project: Project, text: str, *, count: int, out: Path, scale: float, seed: int, steps: int) -> Path:
    """A grid of `count` samples by DDIM at a guidance scale, as one PNG; its path."""
    from prolific_core import config, prompts
    from prolific_core.metrics.pictures import contact_sheet
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.seeding import generator
    from tasks.machine import set_up_torch
    from tasks.stage import save_png

    text, out = prompts.check_text(text), out.resolve()
    if not out.parent.is_dir():
        raise InputError(f"--out: no such folder: {out.parent}")
    os.chdir(project.root)  # where paths in the parameters start
    settings = config.resolve(("params.yaml", prompts.read_yaml(project.root / "params.yaml", "params.yaml") or {}))
    device = set_up_torch(settings.system.threads, settings.system.device)
    prior = LatentDiffusion.load(settings.prior.path, device=device, dtype=settings.prior.dtype)
    images = prior.sample([text] * count, scale=scale, steps=steps, generator=generator(seed, "sample"))
    save_png(out, contact_sheet(images.cpu(), columns=min(count, 8)))
    return out
