"""Stage 4: optimise the colours of the surfaces by VSD, starting from those of the radiance fields.

The shape of the surfaces is fixed. Colours that the geometry stage has optimised with the shape are not fitted again.
"""

from torch import Tensor

from prolific_core import memory
from prolific_core.render.mesh.lights import studio
from prolific_core.scenes import store
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.colour_fit import fit_colours
from prolific_core.scenes.material_field import MaterialField
from prolific_core.scenes.material_mesh import MaterialMesh
from prolific_core.scenes.radiance_field import RadianceField
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
    scenes = [_scene(stage, index, mesh, fields[index]) for index, mesh in enumerate(meshes)]
    stage.status("fitting the colours to the fields")
    for index, (scene, field) in enumerate(zip(scenes, fields, strict=True)):
        fit_colours(field, scene, config, generator(stage.prompt.seed, "texture", "fit", index))
    shape = fields[0].config
    distil_stage(stage, config, scenes, pixel_bytes=memory.point_bytes(shape) * config.supersampling**2)
    store.save_fields(stage.output, shape, fields)
    store.save_materials(stage.output, [scene.colour for scene in scenes if isinstance(scene, MaterialMesh)])
    return {}


def _scene(stage: Stage, index: int, mesh: tuple[Tensor, Tensor], field: RadianceField) -> TexturedMesh:
    """Return the scene of a particle, whose colours or materials start from the field."""
    config, backend, seed = stage.config.texture, stage.config.system.backend, stage.prompt.seed
    if config.material == "colour":
        return TexturedMesh(*mesh, ColourField(field), backend=backend, train_config=config)
    material = MaterialField(field, generator(seed, "texture", "materials", index)).to(stage.device)
    return MaterialMesh(*mesh, material, studio(generator(seed, "light")), backend, config)
