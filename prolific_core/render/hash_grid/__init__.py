"""Multiresolution hash grid encoding of points (Instant-NGP, arXiv 2201.05989, section 3).

- `encoding.py`: `HashEncoding`, the trainable module, and `encode_reference` in plain PyTorch.
- `levels.py`: resolution of each grid and its rows in the shared table.
- `warp.py`: `encode_warp`, the Warp kernels for values and first derivatives.
- `tinycudann.py`: `encode_tinycudann`, the optional backend that calls tiny-cuda-nn.
"""
