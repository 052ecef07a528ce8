"""One seeded generator per purpose, so that no draw depends on what was drawn elsewhere."""

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator derived from the run's seed and the names of its purpose.

    ``generator(seed, "nerf", particle, step, "cameras")``. Draw on the CPU and move the result: the
    same numbers then come out on every device. Because nothing carries over from one step to the
    next, a run that resumes at step k draws what an uninterrupted run draws at step k.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
