"""Stage 5: clean, unwrap and texture the meshes, and export them as OBJ (with MTL and PNG) and GLB."""

import torch

from prolific_core.mesh.bake import bake
from prolific_core.mesh.clean import clean
from prolific_core.mesh.export import feet, write_glb, write_obj
from prolific_core.mesh.unwrap import unwrap
from prolific_core.scenes import store
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config = stage.config.export
    fields = store.load_fields(stage.input("texture"), device=stage.device, backend=stage.config.system.backend)
    meshes = store.load_meshes(stage.input("geometry"), stage.device)
    sizes = []
    for index, ((vertices, faces), field) in enumerate(zip(meshes, fields, strict=True)):
        vertices, faces = clean(
            vertices.cpu().numpy(),
            faces.cpu().numpy(),
            config.faces,
            component_fraction=config.component_fraction,
            smoothing=config.smoothing,
        )
        mesh = unwrap(vertices, faces, config.texture_size)
        with torch.no_grad():
            texture = bake(field.colour, mesh.vertices, mesh.faces, mesh.uvs, config.texture_size, device=stage.device)
        name = "mesh" if index == 0 else f"mesh_{index}"
        origin = feet(mesh.vertices) if config.origin == "feet" else None
        write_obj(stage.output / f"{name}.obj", mesh, texture, origin)
        write_glb(stage.output / f"{name}.glb", mesh, texture, origin)
        stage.progress(index + 1, len(meshes))
        sizes.append(len(faces))
    return {"faces": sum(sizes) / len(sizes)}
