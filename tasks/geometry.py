"""Stage 3: a surface per particle, from its field's density, refined by SDS on its normals."""

import torch

from prolific_core.cameras import orbit
from prolific_core.optimise import DistillationProblem
from prolific_core.scenes import store
from prolific_core.scenes.surface import TetrahedralSurface, matching_threshold
from tasks.guided import distil, four_views
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config = stage.config.geometry
    fields = store.load_fields(stage.input("nerf"), device=stage.device, backend=stage.config.system.backend)
    surfaces = [_initial(stage, field) for field in fields]
    weights = {name: getattr(config, name) for name in ("normal_consistency", "laplacian", "sdf_regularisation")}
    wanted = [name for name, weight in weights.items() if weight > 0]

    def losses(surface, picture, progress):
        terms = {name: weights[name] * value for name, value in picture.losses.items()}
        return terms | ({"opacity": config.opacity * picture.opacity.mean()} if config.opacity > 0 else {})

    problem = DistillationProblem(
        particles=surfaces,
        parameter_groups=lambda surface: surface.parameter_groups(config.learning_rate),
        render=lambda surface, cameras, resolution, generator: surface.render(cameras, resolution, losses=wanted),
        losses=losses,
    )

    def show(surface, cameras, resolution):
        return surface.render(cameras.to(stage.device), resolution).rgb

    distil(stage, config, problem, four_views(show, config))
    faces = 0
    for index, surface in enumerate(surfaces):
        vertices, triangles = surface.extract()
        store.save_mesh(stage.output, index, vertices, triangles)
        faces += len(triangles)
    return {"faces": faces / len(surfaces), "density_threshold": sum(s.threshold for s in surfaces) / len(surfaces)}


def _initial(stage: Stage, field) -> TetrahedralSurface:
    """The surface at the configured density, or at the one that looks most like the field."""
    config = stage.config.geometry
    place = {"resolution": config.grid_resolution, "extent": config.extent}
    options = {"smoothing": config.smoothing, "device": stage.device, "backend": stage.config.system.backend}
    threshold = config.density_threshold
    if threshold is None:
        views = orbit(4, elevation=20, distance=1.6, fov=45).to(stage.device)
        with torch.no_grad():
            opacity = field.render(*views.rays(96)).opacity
        threshold = matching_threshold(field.density, opacity, views, **place, **options)
    return TetrahedralSurface.from_density(field.density, threshold, **place, **options)
