"""Separate random number generators for each purpose, so that the draws for one purpose do not affect the others."""

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a new CPU generator that is seeded by the run's seed and the purpose of the draw.

    Draw on the CPU and move the result to the device, so that the numbers are the same on every device. Create a new
    generator for each step, so that a resumed run draws the same numbers as an uninterrupted one.

    Args:
        seed: The seed of the run.
        *purpose: Names and numbers that identify the draw, for example `"nerf", step, "cameras"`.

    Returns:
        A generator in its initial state.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
