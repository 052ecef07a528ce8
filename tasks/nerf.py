"""Stage 2: optimise the radiance fields by variational score distillation."""

import torch

from prolific_core import cameras, memory
from prolific_core.render.result import Render
from prolific_core.scenes import store
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.visualisation import layers
from tasks.guided import Strip, distil_stage, four_views, preview_side
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config = stage.config.nerf
    fields = store.load_fields(
        stage.input("initialise"), device=stage.device, backend=stage.config.system.backend, train_config=config
    )
    shape = fields[0].config
    distil_stage(stage, config, fields, _strip(stage, shape.scene), memory.field_pixel_bytes(shape, config))
    store.save_fields(stage.output, shape, fields)
    _turntables(stage, fields)
    views = cameras.orbit(4, elevation=15, distance=1.4, fov=45).to(stage.device)
    with torch.no_grad():
        opacity = [float(field.render(views, 64).opacity.mean()) for field in fields]
    return {"opacity": sum(opacity) / len(opacity)}


def _strip(stage: Stage, scene: str) -> Strip:
    """Return a function that renders the preview of a field.

    An object is rendered on a white background from four sides, and a 360-degree scene as a panorama. The preview also
    shows normals, opacity and depth.
    """
    config = stage.config.nerf
    if scene != "scene":
        return four_views(stage, config, lambda field, views, side: layers(_render(field, views, side, normals=True)))
    side = preview_side(config)
    rays = [part.to(stage.device) for part in cameras.panorama(side, 6 * side)]
    return lambda field: layers(field.render_rays(*rays, normals=True))[0]


def _render(field: RadianceField, views: cameras.Cameras, side: int, normals: bool = False) -> Render:
    """Render a field on a white background, or with its own background if it is a 360-degree scene."""
    background = None if field.config.scene == "scene" else "white"
    return field.render(views, side, background=background, normals=normals)


@torch.no_grad()
def _turntables(stage: Stage, fields: list[RadianceField]) -> None:
    """Save a turntable video of each field."""
    config, frames = stage.config.nerf.cameras, stage.config.logging.turntable_frames
    if fields[0].config.scene == "scene":
        views = cameras.around(frames, fov=70)
    else:
        middle = {key: sum(getattr(config, key)) / 2 for key in ("distance", "fov")}
        views = cameras.orbit(frames, elevation=20, **middle)
    views, side = views.to(stage.device), preview_side(stage.config.nerf)
    for index, field in enumerate(fields):
        images = torch.cat([_render(field, views[i], side).rgb.cpu() for i in range(frames)])
        stage.video("turntable" if index == 0 else f"turntable_{index}", images)
