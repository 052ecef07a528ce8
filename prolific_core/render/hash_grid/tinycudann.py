"""Optional CUDA backend for the hash encoding, which calls tiny-cuda-nn.

This backend follows the interface of `modules.Encoding` in tiny-cuda-nn 2. It has not been run on this project's
machines, which have no GPU. The tests of the encoding include it if tiny-cuda-nn is installed.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.render.hash_grid.levels import Level


@cache
def _encoding(levels: int, features: int, log2_entries: int, base: int, growth: float, smooth: bool):
    import tinycudann

    settings = {
        "otype": "HashGrid",
        "n_levels": levels,
        "n_features_per_level": features,
        "log2_hashmap_size": log2_entries,
        "base_resolution": base,
        "per_level_scale": growth,
        "interpolation": "Smoothstep" if smooth else "Linear",
    }
    return tinycudann.Encoding(3, settings, dtype=torch.float32)  # pyright: ignore[reportAttributeAccessIssue]


def encode_tinycudann(
    x: Float[Tensor, "points 3"], table: Float[Tensor, "rows features"], levels: list[Level], smooth: bool
) -> Float[Tensor, "points columns"]:
    """Encode points with tiny-cuda-nn in float32; see `encode_reference`.

    `table` replaces the parameters of the tiny-cuda-nn module during the call, so that the gradient flows to the
    parameter that the optimizer updates.
    """
    base = round(levels[0].scale + 1)
    growth = (levels[-1].scale + 1) / (levels[0].scale + 1)
    growth = growth ** (1 / max(len(levels) - 1, 1))
    entries = max(level.entries for level in levels)
    log2_entries = (entries - 1).bit_length()
    module = _encoding(len(levels), table.shape[1], log2_entries, base, growth, smooth)
    swapped = torch.func.functional_call(module, {"params": table.reshape(-1)}, (x.clamp(0, 1),))
    return swapped.float()
