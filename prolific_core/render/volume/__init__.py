"""Volume rendering of a density and colour field along rays.

- `occupancy.py`: `OccupancyGrid`, which marks the cells of the volume that are worth sampling.
- `marching.py`: `march`, which places samples along rays (a Warp kernel and `march_reference`).
- `resampling.py`: `resample`, importance resampling of those samples (plain PyTorch on every device).
- `compositing.py`: `composite`, the volume rendering quadrature (a Warp kernel and `composite_reference`).
- `render.py`: `shade`, which evaluates a field at the samples and composites the result.
"""
