"""Stage 3: extract a surface from the density of each field, and refine it with SDS on rendered normals."""

import torch

from prolific_core.cameras import orbit
from prolific_core.scenes import store
from prolific_core.scenes.measured_extent import measured_extent
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.surface import TetrahedralSurface, matching_threshold
from tasks.guided import distil_stage
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    fields = store.load_fields(stage.input("nerf"), device=stage.device, backend=stage.config.system.backend)
    surfaces = [_initial(stage, field) for field in fields]
    distil_stage(stage, stage.config.geometry, surfaces)
    faces = 0
    for index, surface in enumerate(surfaces):
        vertices, triangles = surface.extract()
        store.save_mesh(stage.output, index, vertices, triangles)
        faces += len(triangles)
    return {"faces": faces / len(surfaces), "density_threshold": sum(s.threshold for s in surfaces) / len(surfaces)}


def _initial(stage: Stage, field: RadianceField) -> TetrahedralSurface:
    """Extract the surface of a field at a density threshold.

    If no threshold is configured, the one that best matches the field's silhouettes is used. If no extent is
    configured, the box of the surface is measured.
    """
    config, bound = stage.config.geometry, field.config.bound
    grid = {"resolution": config.grid_resolution, "extent": config.extent or bound}
    options = {"smoothing": config.smoothing, "device": stage.device, "backend": stage.config.system.backend}
    threshold = config.density_threshold
    if threshold is None:
        views = orbit(4, elevation=20, distance=1.4, fov=45).to(stage.device)
        with torch.no_grad():
            opacity = field.render(views, 96).opacity
        threshold = matching_threshold(field.density, opacity, views, **grid, **options)
    if config.extent is None:
        grid["extent"] = measured_extent(field.density, threshold, config.grid_resolution, bound, **options)
        stage.note(f"the box of the surface reaches {grid['extent']:.2f} world units from the centre")
    return TetrahedralSurface.from_density(field.density, threshold, **grid, **options, train_config=config)
