"""Stage 1: initialise the radiance field of each particle, and save a preview of the first one."""

import torch

from prolific_core import cameras
from prolific_core.scenes import store
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.seeding import generator
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config, seed = stage.config.initialise, stage.prompt.seed
    fields = []
    for index in range(config.particles):
        field = RadianceField(config.field, generator(seed, "field", index), stage.config.system.backend)
        field = field.to(stage.device)
        field.update_occupancy(0, generator(seed, "occupancy", index))
        fields.append(field)
        stage.progress(index + 1, config.particles)
    store.save_fields(stage.output, config.field, fields)
    view = cameras.orbit(1, elevation=15, distance=1.4, fov=45).to(stage.device)
    with torch.no_grad():
        render = fields[0].render(view, config.preview_resolution, normals=True)
    opacity = render.opacity[0].expand(3, -1, -1)
    stage.image("initial", torch.cat([render.rgb[0], opacity, render.normal[0]], dim=-1), keep=True)
    return {"initial_opacity": float(opacity.mean())}
