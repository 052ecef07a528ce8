"""Separate random number generators for each purpose, so that the draws for one purpose do not affect the others."""

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a new CPU generator that is seeded by the run's seed and the purpose of the draw.

    Draw on the CPU and move the result to the device, so that the numbers are the same on every device; see `on_device`
    for draws that are too large for this. Create a new generator for each step, so that a resumed run draws the same
    numbers as an uninterrupted one.

    Args:
        seed: The seed of the run.
        *purpose: Names and numbers that identify the draw, for example `"nerf", step, "cameras"`.

    Returns:
        A generator in its initial state.
    """
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator for large draws on a device, such as one number for each of millions of samples.

    On the CPU, such draws would take a tenth of a second, and the GPU would wait for their copy. The numbers drawn on a
    GPU differ from those drawn on the CPU.

    Args:
        generator: A CPU generator.
        device: Device of the draws.

    Returns:
        `generator` itself for the CPU. For a GPU, a new generator on it, seeded with one draw from `generator`.
    """
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator(device).manual_seed(seed)
