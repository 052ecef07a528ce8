"""Warp kernel for ray queries. `raster.py` imports this module on first use, because it imports Warp."""
# Warp kernels are annotated with Warp's types, which type checkers do not accept.
# pyright: basic, reportInvalidTypeForm=false, reportAttributeAccessIssue=false

from typing import no_type_check

import warp as wp


@no_type_check
@wp.kernel(enable_backward=False)
def first_hit(
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.int32),
):
    """Write the index of the first face along each ray, or -1 if the ray hits nothing."""
    ray = wp.tid()
    query = wp.mesh_query_ray(mesh, origins[ray], directions[ray], 1.0e6)
    if query.result:
        faces[ray] = query.face
    else:
        faces[ray] = -1
