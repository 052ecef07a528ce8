"""Differentiable rendering of volumes and triangle meshes, with shared source code for CPU and GPU.

- `result.py`: `Render`, the batch of images that every scene returns.
- `backends.py`: choice of the implementation that runs each kernel.
- `warp_launch.py`: functions that launch Warp kernels on PyTorch tensors.
- `networks.py`: the small multilayer perceptrons of a radiance field.
- `hash_grid/`: multiresolution hash grid encoding of points.
- `volume/`: occupancy grid, ray marching, importance resampling and compositing.
- `mesh/`: visibility, interpolation, antialiasing and shading of triangle meshes.

Every Warp kernel has a reference in plain PyTorch named `*_reference`: `encode_reference`, `march_reference`,
`composite_reference` and `first_hit_reference`. The tests compare values and gradients with these references.
"""

from prolific_core.render.result import Render

__all__ = ["Render"]
