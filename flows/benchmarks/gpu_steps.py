"""Time and memory of a step of each optimised stage (`prolific bench gpu`).

The stages run with the models and the sizes of a preset and with few steps, without DVC, Prefect or files. The mesh of
`geometry` and `texture` is that of the initial field.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flows.benchmarks import results
from prolific_core import config
from prolific_core.guidance import base
from prolific_core.optimise import distil
from prolific_core.prior.kinds import load_prior
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.scenes.base import Scene
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.surface import TetrahedralSurface
from prolific_core.scenes.textured_mesh import TexturedMesh
from prolific_core.seeding import generator
from tasks.runtime import machine

PROMPT = "a red mug"
WARM_UP = 3  # steps that are not timed: kernels are compiled and algorithms chosen


@dataclass(frozen=True)
class Row:
    """Seconds per step of a stage, the fractions of its parts, and the peak of the memory in use."""

    stage: str
    seconds_per_step: float
    steps: int
    hours: float
    peak_gb: float | None
    fractions: dict[str, float]


def bench(values: config.Config, steps: int) -> list[Row]:
    """Time `steps` steps of each optimised stage with the values of a preset."""
    device = machine.set_up_torch(values.system.threads, values.system.device, values.system.deterministic)
    prior = load_prior(**values.prior.model_dump(), device=device)
    makers: dict[str, Callable[[RadianceField], Scene]] = {
        "nerf": lambda field: field,
        "geometry": lambda field: _surface(field, values),
        "texture": lambda field: TexturedMesh(
            *_surface(field, values).extract(), ColourField(field), train_config=values.texture
        ),
    }
    rows = []
    for name, make in makers.items():
        stage = getattr(values, name)
        field = RadianceField(
            values.initialise.field, generator(0, "field"), values.system.backend, train_config=values.nerf
        ).to(device)
        rows.append(_row(name, stage, make(field), prior, steps))
    return rows


def _surface(field: RadianceField, values: config.Config) -> TetrahedralSurface:
    geometry = values.geometry
    return TetrahedralSurface.from_density(
        field.density,
        geometry.density_threshold or 5.0,
        geometry.grid_resolution,
        geometry.extent or field.config.bound,
        device=field.occupancy.density.device,
        backend=values.system.backend,
        train_config=geometry,
    )


def _row(name: str, stage: Any, scene: Scene, prior: LatentDiffusion, steps: int) -> Row:
    on_gpu = prior.device.type == "cuda"
    guidance = base.build_guidance(prior, stage.guidance, PROMPT, generator=generator(0, "score"))
    # The largest resolution, which takes most of a run.
    side = max(side for _, side in stage.resolution)

    def run(count: int, seed: int):
        short = stage.model_copy(update={"steps": count, "resolution": [(0.0, side)]})
        return distil([scene], guidance, short, seed=seed, name=name)

    run(WARM_UP, 0)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    timer = run(steps, 1)
    fractions, total = timer.fractions(), sum(timer.seconds.values())
    peak = torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None
    return Row(name, total / steps, steps, total / steps * stage.steps / 3600, peak, fractions)


def table(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table."""
    header = ("stage", "s per step", "hours of a whole run", "peak GB", "largest part")
    cells = []
    for row in rows:
        part = max(row.fractions, key=row.fractions.__getitem__)
        cells.append((row.stage, row.seconds_per_step, row.hours, row.peak_gb, f"{part} {row.fractions[part]:.0%}"))
    return results.table(header, cells)
