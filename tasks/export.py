"""Stage 5: clean, unwrap and texture the meshes, and export them as OBJ (with MTL and PNG), GLB and PLY."""

from prolific_core.mesh.asset import finish
from prolific_core.mesh.export import feet, write_glb, write_obj, write_ply
from prolific_core.scenes import store
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config = stage.config.export
    fields = store.load_fields(stage.input("texture"), device=stage.device, backend=stage.config.system.backend)
    colours = store.load_materials(stage.input("texture"), fields) or [field.colour for field in fields]
    meshes = store.load_meshes(stage.input("geometry"), stage.device)
    sizes = []
    for index, ((vertices, faces), colour) in enumerate(zip(meshes, colours, strict=True)):
        asset = finish(vertices, faces, colour, config)
        path = stage.output / ("mesh" if index == 0 else f"mesh_{index}")
        origin = feet(asset.vertices) if config.origin == "feet" else None
        write_ply(path.with_suffix(".ply"), asset.vertices, asset.faces, asset.colours, origin)
        write_obj(path.with_suffix(".obj"), asset.mesh, asset.texture, origin)
        write_glb(path.with_suffix(".glb"), asset.mesh, asset.texture, origin, unlit=config.material == "unlit")
        stage.progress(index + 1, len(meshes))
        sizes.append(len(asset.faces))
    return {"faces": sum(sizes) / len(sizes)}
