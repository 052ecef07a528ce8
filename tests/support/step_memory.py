"""Measure the memory of one training step at 512 x 512: python -m tests.support.step_memory [PATCH] [SIDE]

The step trains the paper's field by VSD, with the entropy loss and with the Toybox as prior, which encodes the image
at its own resolution. PATCH is the number of rays whose graph is held at once, or 0 for all. The output is the peak
memory of the process in MB.
"""

import sys
import tempfile
from pathlib import Path

from tasks.runtime import machine

if __name__ == "__main__":
    machine.threads(1)
    patch, side = [*map(int, sys.argv[1:]), *[16384, 512][len(sys.argv) - 1 :]]
    machine.set_up_torch(1, "cpu")

    from prolific_core.config import (
        FieldConfig,
        GuidanceConfig,
        NerfConfig,
    )
    from prolific_core.guidance import base
    from prolific_core.optimise import distil
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.seeding import generator

    config = NerfConfig(steps=1, resolution=[(0.0, side)], random_background=0, patch=patch or None)
    field = RadianceField(FieldConfig(), generator(0, "field"), train_config=config)
    prior = LatentDiffusion.load("toybox")
    guidance = base.build_guidance(prior, GuidanceConfig(), "a red mug", generator=generator(0, "score"))
    counts = []
    losses = field.losses
    field.losses = lambda render, progress: counts.append(len(render.samples)) or losses(render, progress)
    before = machine.peak_memory_mb()
    with tempfile.TemporaryDirectory() as folder:
        timer = distil([field], guidance, config, name="nerf", state_file=Path(folder) / "state")
    print(f"{side} x {side}, patch {patch}: {counts[0]} samples, peak {machine.peak_memory_mb():.0f} MB, of which")
    print(f"{before:.0f} MB before the step; seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in timer.seconds.items()))
