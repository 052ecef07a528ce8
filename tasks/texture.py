"""Stage 4: optimise the colours of the surfaces by VSD, starting from those of the radiance fields.

The shape of the surfaces is fixed. Colours that the geometry stage has optimised with the shape are not fitted again.
"""

from prolific_core import memory
from prolific_core.scenes import store
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.colour_fit import fit_colours
from prolific_core.scenes.textured_mesh import TexturedMesh
from prolific_core.seeding import generator
from tasks.guided import distil_stage
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config, backend = stage.config.texture, stage.config.system.backend
    coloured = store.has_fields(stage.input("geometry"))
    source = stage.input("geometry" if coloured else "nerf")
    fields = store.load_fields(source, device=stage.device, backend=backend)
    if coloured:
        config = config.model_copy(update={"fit_steps": 0})
    meshes = store.load_meshes(stage.input("geometry"), stage.device)
    scenes = [
        TexturedMesh(*mesh, ColourField(field), backend=backend, train_config=config)
        for mesh, field in zip(meshes, fields, strict=True)
    ]
    stage.status("fitting the colours to the fields")
    for index, (scene, field) in enumerate(zip(scenes, fields, strict=True)):
        fit_colours(field, scene, config, generator(stage.prompt.seed, "texture", "fit", index))
    shape = fields[0].config
    distil_stage(stage, config, scenes, pixel_bytes=memory.point_bytes(shape) * config.supersampling**2)
    store.save_fields(stage.output, shape, fields)
    return {}
