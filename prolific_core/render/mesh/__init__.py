"""Differentiable rendering of triangle meshes.

- `raster.py`: `Visibility`, which finds the first face along each ray, its reference `first_hit_reference`, `trace`,
  `interpolate` and vertex normals.
- `kernels.py`: the Warp kernel that `Visibility` launches; it is imported on first use.
- `antialias.py`: `antialias`, which blends silhouettes by coverage to make them differentiable.
- `shading.py`: `render_mesh`, which combines visibility, interpolation and antialiasing into an image.
"""
