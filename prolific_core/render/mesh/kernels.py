"""The ray-query kernel of `raster.py`. Imported late: importing it imports warp."""

import warp as wp


@wp.kernel(enable_backward=False)
def first_hit(
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.int32),
):
    """One thread a ray: the index of the nearest face, or -1."""
    ray = wp.tid()
    query = wp.mesh_query_ray(mesh, origins[ray], directions[ray], 1.0e6)
    if query.result:
        faces[ray] = query.face
    else:
        faces[ray] = -1
