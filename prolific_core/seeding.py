"""Random number generators, one for each purpose, so that no draw depends on draws made elsewhere."""

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a new CPU generator that is seeded by the run's seed and the names of its purpose.

    Draw on the CPU and move the result to the device, so that every device gets the same numbers. No
    generator is carried over from one step to the next: a run that is resumed at step k draws the same
    numbers at step k as an uninterrupted run.

    Args:
        seed: The seed of the run.
        *purpose: Names and numbers that identify the draw, for example `"nerf", step, "cameras"`.

    Returns:
        A generator in its initial state.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
