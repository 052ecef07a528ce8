"""Stage 3: a surface per particle, from its field's density, refined by SDS on its normals."""

from prolific_core.optimise import Problem
from prolific_core.scenes import store
from prolific_core.scenes.surface import TetrahedralSurface
from tasks.guided import distil
from tasks.stage import Stage


def run(stage: Stage) -> dict:
    config, backend = stage.config.geometry, stage.config.system.backend
    fields = store.load_fields(stage.input("nerf"), device=stage.device, backend=backend)
    surfaces = [
        TetrahedralSurface.from_density(
            field.density,
            config.density_threshold,
            config.grid_resolution,
            config.extent,
            smoothing=config.smoothing,
            device=stage.device,
            backend=backend,
        )
        for field in fields
    ]
    weights = {name: getattr(config, name) for name in ("normal_consistency", "laplacian", "sdf_regularisation")}
    wanted = [name for name, weight in weights.items() if weight > 0]

    def losses(surface, picture, progress):
        terms = {name: weights[name] * value for name, value in picture.losses.items()}
        return terms | ({"opacity": config.opacity * picture.opacity.mean()} if config.opacity > 0 else {})

    problem = Problem(
        particles=surfaces,
        parameter_groups=lambda surface: surface.parameter_groups(config.learning_rate),
        render=lambda surface, cameras, resolution, generator: surface.render(cameras, resolution, losses=wanted),
        losses=losses,
    )

    def show(surface, cameras, resolution):
        return surface.render(cameras.to(stage.device), resolution).rgb

    distil(stage, config, problem, show)
    faces = 0
    for index, surface in enumerate(surfaces):
        vertices, triangles = surface.extract()
        store.save_mesh(stage.output, index, vertices, triangles)
        faces += len(triangles)
    return {"faces": faces / len(surfaces)}
