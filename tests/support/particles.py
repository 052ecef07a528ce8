"""Measure the cost of 1, 4 and 16 particles in the demo's NeRF stage: python -m tests.support.particles [COUNT...]

Each count runs in a process of its own, because only the peak memory of a process can be measured. The table has this
peak, the computed memory of the fields and their optimizers, and the median time of the last steps.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks.runtime import machine


def measure(count: int) -> None:
    machine.threads(1)
    machine.set_up_torch(1, "cpu")

    from prolific_core import config, memory
    from prolific_core.guidance import base
    from prolific_core.optimise import distil
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.seeding import generator
    from tasks.runtime.project import Project

    values = Project.find().shared_config()
    rates = {"grid_learning_rate": 2e-2, "network_learning_rate": 5e-3, "background_learning_rate": 5e-3}
    plain = {"random_background": 0.0, "patch": None, "losses": config.LossWeights(entropy=0)}
    stage = values.nerf.model_copy(update={"steps": 104, **rates, **plain})
    fields = [
        RadianceField(values.initialise.field, generator(0, "field", k), train_config=stage) for k in range(count)
    ]
    prior = LatentDiffusion.load("toybox")
    guidance = base.build_guidance(prior, stage.guidance, "a red mug", generator=generator(0, "score"))
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        distil(
            fields,
            guidance,
            stage,
            name="nerf",
            state_file=Path(folder) / "state",
            observe=lambda *_: times.append(time.perf_counter()),
        )
    seconds = statistics.median(b - a for a, b in zip(times[-31:], times[-30:], strict=False))
    held = memory.estimate(guidance, fields, views=stage.views, side=64, pixel_bytes=0)
    own = memory.size(parameter for field in fields for parameter in field.parameters())
    peak, expected = machine.peak_memory_mb(), sum(held.values()) / 1e6
    print(f"| {count} | {1000 * seconds:.0f} | {peak:.0f} | {3 * own / 1e6:.0f} | {expected:.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        print("| particles | ms per step | peak MB | fields and Adam's two moments, MB | expected MB |")
        print("|---|---|---|---|---|", flush=True)
        for count in map(int, sys.argv[1:] or ("1", "4", "16")):
            subprocess.run([sys.executable, __file__, "--one", str(count)], check=True)
