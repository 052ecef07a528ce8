"""Stage 2: the radiance fields, by variational score distillation."""

import torch

from prolific_core import cameras, memory
from prolific_core.optimise import DistillationProblem
from prolific_core.scenes import regularisers, store
from prolific_core.visualisation import layers
from tasks.guided import Strip, distil, four_views, picture_side
from tasks.runtime.stage import Stage


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

    problem = DistillationProblem(
        particles=fields,
        parameter_groups=lambda field: field.parameter_groups(rates),
        render=render,
        losses=losses,
        before_step=lambda field, step, generator: field.update_occupancy(step, generator),
        pixel_bytes=memory.field_pixel_bytes(fields[0].config, _share(config)),
    )

    distil(stage, config, problem, _strip(stage, fields[0]))
    store.save_fields(stage.output, fields[0].config, fields)
    _turntables(stage, fields)
    views = cameras.orbit(4, elevation=15, distance=1.6, fov=45).to(stage.device)
    with torch.no_grad():
        opacity = [float(field.render(*views.rays(64)).opacity.mean()) for field in fields]
    return {"opacity": sum(opacity) / len(opacity)}


def _inside(field) -> bool:
    """Whether cameras stand inside: a 360-degree scene."""
    return field.config.scene == "scene"


def _strip(stage: Stage, field) -> Strip:
    """All that a field renders: from four sides over white, or all around from inside."""
    config = stage.config.nerf
    if not _inside(field):
        return four_views(lambda field, views, side: _look(stage, field, views, side, normals=True), config)
    side = picture_side(config)
    rays = [part.to(stage.device) for part in cameras.panorama(side, 6 * side)]
    return lambda field: layers(field.render(*rays, normals=True))[0]


def _look(stage: Stage, field, views: cameras.Cameras, side: int, normals: bool = False) -> torch.Tensor:
    picture = field.render(
        *views.to(stage.device).rays(side), background=None if _inside(field) else "white", normals=normals
    )
    return layers(picture) if normals else picture.rgb


@torch.no_grad()
def _turntables(stage: Stage, fields: list) -> None:
    config, frames = stage.config.nerf.cameras, stage.config.logging.turntable_frames
    middle = {key: sum(getattr(config, key)) / 2 for key in ("distance", "fov")}
    views = cameras.around(frames, fov=70) if _inside(fields[0]) else cameras.orbit(frames, elevation=20, **middle)
    side = picture_side(stage.config.nerf)
    for index, field in enumerate(fields):
        pictures = torch.cat([_look(stage, field, views[i], side).cpu() for i in range(frames)])
        stage.video("turntable" if index == 0 else f"turntable_{index}", pictures)


def _share(config) -> float:
    """Of the largest training render's rays, how many have their graph held at once."""
    pixels = config.views * max(side for _, side in config.resolution) ** 2
    return 1.0 if config.patch is None else min(1.0, config.patch / pixels)
