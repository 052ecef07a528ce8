"""Backgrounds behind a radiance field."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prolific_core.errors import InputError

#: Grey levels of the plain backgrounds by name.
PLAIN = {"white": 1.0, "grey": 0.5, "black": 0.0}


def background_colour(
    directions: Float[Tensor, "batch height width 3"], background: str | Tensor, network: nn.Module | None
) -> Float[Tensor, "batch 3 height width"]:
    """Return the colours behind the object.

    Args:
        directions: Unit vectors (B, H, W, 3).
        background: A name in PLAIN, "network" or a colour in [0, 1] as a tensor (3,), (B, 3) or (B, 3, H, W).
        network: Background network, which returns colours (B, H, W, 3) for directions, or None if there is none.

    Returns:
        Colours (B, 3, H, W) in [0, 1].

    Raises:
        InputError: The name is unknown, or there is no background network.
    """
    batch, height, width, _ = directions.shape
    if isinstance(background, Tensor):
        colour = background.to(directions)
        colour = colour if colour.dim() == 4 else colour.reshape(-1, 3, 1, 1)
        return colour.expand(batch, 3, height, width)
    if background in PLAIN:
        return directions.new_full((batch, 3, height, width), PLAIN[background])
    if background == "network" and network is not None:
        return network(directions).permute(0, 3, 1, 2)
    known = [*PLAIN, *(["network"] if network is not None else [])]
    raise InputError(f"background must be a colour or one of {', '.join(known)}, got {background!r}")


def some_random(
    behind: Float[Tensor, "batch 3 height width"], probability: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Replace each image's background with a plain random colour at the given probability.

    Args:
        behind: Colours (B, 3, H, W) in [0, 1].
        probability: Probability of a random colour, in [0, 1].
        generator: Source of the random numbers.
    """
    batch = len(behind)
    replace = (torch.rand(batch, generator=generator) < probability).to(behind.device, non_blocking=True)
    colour = torch.rand(batch, 3, generator=generator).to(behind, non_blocking=True)
    return torch.where(replace[:, None, None, None], colour[:, :, None, None], behind)
