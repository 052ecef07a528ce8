"""Stage 3: extract a surface from the density of each field, and refine it with SDS on rendered normals.

The surface may also start from an ellipsoid or a mesh file.
"""

from prolific_core import memory
from prolific_core.scenes import store
from prolific_core.scenes.coloured_surface import ColouredSurface, join
from prolific_core.scenes.extraction import by_optical_depth, extract_surface
from prolific_core.scenes.start_shape import start_surface
from tasks.guided import distil_stage
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config, backend = stage.config.geometry, stage.config.system.backend
    fields = store.load_fields(stage.input("nerf"), device=stage.device, backend=backend)
    if config.start == "field":
        surfaces = [extract_surface(field, config, backend) for field in fields]
    else:
        surfaces = [start_surface(config, backend, stage.device) for _ in fields]
    if config.extent is None:
        for surface in surfaces:
            stage.note(f"the box of the surface reaches {surface.extent:.2f} world units from the centre")
    if config.colours and config.steps > 0:
        _refine_with_colours(stage, join(surfaces, fields))
    else:
        distil_stage(stage, config, surfaces)
    faces = 0
    for index, surface in enumerate(surfaces):
        vertices, triangles = surface.extract()
        store.save_mesh(stage.output, index, vertices, triangles)
        faces += len(triangles)
    if config.start != "field":
        return {"faces": faces / len(surfaces)}
    level = "optical_depth" if by_optical_depth(fields[0], config) else "density_threshold"
    return {"faces": faces / len(surfaces), level: sum(s.threshold for s in surfaces) / len(surfaces)}


def _refine_with_colours(stage: Stage, scenes: list[ColouredSurface]) -> None:
    """Optimise shape and colours together, by guidance on colour renders, and save the colours for later stages."""
    fields = [scene.colour.field for scene in scenes]
    shape = fields[0].config
    distil_stage(stage, stage.config.geometry, scenes, pixel_bytes=memory.point_bytes(shape))
    store.save_fields(stage.output, shape, fields)
