"""Stage 4: colours on the fixed surfaces by VSD, starting from the radiance fields' own."""

import torch

from prolific_core import memory
from prolific_core.optimise import DistillationProblem
from prolific_core.scenes import store
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.textured_mesh import TexturedMesh
from tasks.guided import distil, four_views
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config, backend = stage.config.texture, stage.config.system.backend
    fields = store.load_fields(stage.input("nerf"), device=stage.device, backend=backend)
    meshes = store.load_meshes(stage.input("geometry"), stage.device)
    scenes = [
        TexturedMesh(*mesh, ColourField(field), backend=backend) for mesh, field in zip(meshes, fields, strict=True)
    ]
    rates = {"grid": config.grid_learning_rate, "networks": config.network_learning_rate}

    def render(scene, cameras, resolution, generator):
        batch = len(cameras)
        colour = torch.rand(batch, 3, generator=generator)
        plain = torch.rand(batch, 1, generator=generator) < config.random_background
        background = torch.where(plain, colour, torch.ones(batch, 3))
        return scene.render(cameras, resolution, background.to(stage.device), supersampling=config.supersampling)

    problem = DistillationProblem(
        particles=scenes,
        parameter_groups=lambda scene: scene.colour.parameter_groups(rates),
        render=render,
        pixel_bytes=memory.point_bytes(fields[0].config) * config.supersampling**2,
    )

    def show(scene, cameras, resolution):
        return scene.render(cameras.to(stage.device), resolution, 1.0).rgb

    distil(stage, config, problem, four_views(show, config))
    store.save_fields(stage.output, fields[0].config, [scene.colour.field for scene in scenes])
    return {}
