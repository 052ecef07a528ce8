"""The hash encoding by tiny-cuda-nn (optional, CUDA only).

Written against the interface of tiny-cuda-nn 2's `modules.Encoding`; it has not
been run on this project's machines, which have no GPU. The tests of the
encoding run against it wherever it is installed.
"""

from functools import cache

import torch
from torch import Tensor


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
    return tinycudann.Encoding(3, settings, dtype=torch.float32)


def encode_tinycudann(x: Tensor, table: Tensor, levels: list, smooth: bool) -> Tensor:
    """As `encode_reference`, by tiny-cuda-nn in float32, with our own table.

    The module's parameters are swapped for `table`, so that there is one copy
    of them and the gradient arrives where the optimizer looks.
    """
    base = round(levels[0].scale + 1)
    growth = (levels[-1].scale + 1) / (levels[0].scale + 1)
    growth = growth ** (1 / max(len(levels) - 1, 1))
    entries = max(level.entries for level in levels)
    log2_entries = (entries - 1).bit_length()
    module = _encoding(len(levels), table.shape[1], log2_entries, base, growth, smooth)
    swapped = torch.func.functional_call(module, {"params": table.reshape(-1)}, (x.clamp(0, 1),))
    return swapped.float()
