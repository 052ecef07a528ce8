"""How much memory one training step at 512 x 512 takes: python -m tests.support.step_memory [PATCH] [SIDE]

The paper's field, the Toybox as prior (it sees the picture at its own resolution), VSD, every regulariser of
the preset, Adam. PATCH: rays whose graph is held at once, 0 for all. Prints the process's peak in MB.
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
        LoggingConfig,
        NerfConfig,
    )
    from prolific_core.guidance import base
    from prolific_core.optimise import DistillationProblem, optimise
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.scenes import regularisers
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.seeding import generator

    config = NerfConfig(steps=1, resolution=[(0.0, side)], patch=patch or None)
    field = RadianceField(FieldConfig(), generator(0, "field"))
    prior = LatentDiffusion.load("toybox")
    seen = {}

    def render(field, cameras, resolution, draw):
        picture = field.render(*cameras.rays(resolution), generator=draw, training=True, patch=config.patch)
        seen["samples"] = len(picture.samples)
        return picture

    problem = DistillationProblem(
        particles=[field],
        parameter_groups=lambda field: field.parameter_groups({"grid": 1e-2, "networks": 1e-3, "background": 1e-3}),
        render=render,
        losses=lambda field, picture, progress: {"entropy": 10 * regularisers.entropy(picture)},
        before_step=lambda field, step, draw: field.update_occupancy(step, draw),
    )
    before = machine.peak_memory_mb()
    with tempfile.TemporaryDirectory() as folder:
        clock = optimise(
            problem,
            base.build_guidance(prior, GuidanceConfig(), "a red mug", generator=generator(0, "score")),
            config,
            LoggingConfig(),
            seed=0,
            name="nerf",
            state_file=Path(folder) / "state",
            observe=lambda step, metrics: None,
        )
    print(
        f"{side} x {side}, patch {patch}: {seen['samples']} samples, peak {machine.peak_memory_mb():.0f} MB, of which"
    )
    print(f"{before:.0f} MB before the step; seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in clock.seconds.items()))
