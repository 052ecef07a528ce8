"""Differentiable rendering of triangle meshes.

- `raster.py`: `Visibility`, the first face along each ray, with `first_hit_reference` in plain PyTorch; `trace`,
  `interpolate` and vertex normals.
- `kernels.py`: the Warp kernel that `Visibility` launches; it is imported on first use.
- `antialias.py`: `antialias`, which blends silhouettes by coverage to make them differentiable.
- `shading.py`: `render_mesh`, which combines the three steps into an image.
"""
