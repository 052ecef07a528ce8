"""Stage 2: the radiance fields, by variational score distillation."""

import torch

from prolific_core import memory
from prolific_core.cameras import orbit
from prolific_core.optimise import Problem
from prolific_core.scenes import regularisers, store
from tasks.guided import distil
from tasks.stage import Stage


def run(stage: Stage) -> dict:
    config = stage.config.nerf
    fields = store.load_fields(stage.input("initialise"), device=stage.device, backend=stage.config.system.backend)
    weights = config.losses
    rates = {
        "grid": config.grid_learning_rate,
        "networks": config.network_learning_rate,
        "background": config.background_learning_rate,
    }

    def render(field, cameras, resolution, generator):
        origins, directions = cameras.rays(resolution)
        picture = field.render(
            origins,
            directions,
            generator=generator,
            training=True,
            random_background_probability=config.random_background,
            normals=weights.orientation > 0,
            patch=config.patch,
        )
        if weights.orientation > 0:
            picture.losses["orientation"] = regularisers.orientation(picture, directions)
        return picture

    def losses(field, picture, progress):
        terms = {"opacity": weights.opacity_at(progress), "sparsity": weights.sparsity, "entropy": weights.entropy}
        weighted = {name: weight * getattr(regularisers, name)(picture) for name, weight in terms.items() if weight > 0}
        return weighted | {name: getattr(weights, name) * value for name, value in picture.losses.items()}

    problem = Problem(
        particles=fields,
        parameter_groups=lambda field: field.parameter_groups(rates),
        render=render,
        losses=losses,
        before_step=lambda field, step, generator: field.update_occupancy(step, generator),
        pixel_bytes=memory.field_pixel_bytes(fields[0].config, _share(config)),
    )

    def show(field, cameras, resolution):
        return field.render(*cameras.to(stage.device).rays(resolution), background="white").rgb

    distil(stage, config, problem, show)
    store.save_fields(stage.output, fields[0].config, fields)
    views = orbit(4, elevation=15, distance=1.6, fov=45).to(stage.device)
    with torch.no_grad():
        opacity = [float(field.render(*views.rays(64)).opacity.mean()) for field in fields]
    return {"opacity": sum(opacity) / len(opacity)}


def _share(config) -> float:
    """Of the largest training render's rays, how many have their graph held at once."""
    pixels = config.views * max(side for _, side in config.resolution) ** 2
    return 1.0 if config.patch is None else min(1.0, config.patch / pixels)
