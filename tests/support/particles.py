"""What 1, 4 and 16 particles cost a step of the demo's NeRF stage: python -m tests.support.particles [COUNT...]

A process for each count, since memory is a process's peak: its whole peak, what the fields and their optimizers
hold by count of bytes, and the median of the steps' seconds once every particle has been stepped.
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

    import torch

    from prolific_core import config, memory, prompts
    from prolific_core.guidance import base
    from prolific_core.optimise import DistillationProblem, optimise
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.seeding import generator
    from tasks.runtime.project import Project

    root = Project.find().root
    values = config.resolve(("demo", prompts.read_yaml(root / "presets/demo.yaml", "demo")))
    stage = values.nerf.model_copy(update={"steps": 104})
    fields = [RadianceField(values.initialise.field, generator(0, "field", k)) for k in range(count)]
    problem = DistillationProblem(
        particles=fields,
        parameter_groups=lambda field: field.parameter_groups({"grid": 2e-2, "networks": 5e-3, "background": 5e-3}),
        render=lambda field, cameras, side, draw: field.render(*cameras.rays(side), generator=draw, training=True),
        before_step=lambda field, step, draw: field.update_occupancy(step, draw),
    )
    prior = LatentDiffusion.load("toybox")
    guidance = base.build_guidance(prior, stage.guidance, "a red mug", generator=generator(0, "score"))
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        optimise(
            problem, guidance, stage, config.LoggingConfig(), seed=0, name="nerf", state_file=Path(folder) / "state",
            observe=lambda *_: times.append(time.perf_counter()),
        )  # fmt: skip
    seconds = statistics.median(b - a for a, b in zip(times[-31:], times[-30:], strict=False))
    held = memory.estimate(guidance, fields, views=stage.views, side=64, pixel_bytes=0)
    own = sum(
        tensor.numel() * tensor.element_size()
        for field in fields
        for tensor in field.parameters()
        if isinstance(tensor, torch.Tensor)
    )
    print(
        f"| {count} | {1000 * seconds:.0f} | {machine.peak_memory_mb():.0f} | {3 * own / 1e6:.0f} | {sum(held.values()) / 1e6:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        print(
            "| particles | ms a step | peak MB | fields, gradients not counted, and Adam's two moments, MB | expected MB |\n"
            + "|---" * 5
            + "|",
            flush=True,
        )
        for count in map(int, sys.argv[1:] or ("1", "4", "16")):
            subprocess.run([sys.executable, __file__, "--one", str(count)], check=True)
