"""Initial density of a radiance field (ProlificDreamer, 2305.16213, appendix)."""

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.errors import InputError

#: Radius of the empty region in the initial density of a 360-degree scene (ProlificDreamer, 2305.16213, appendix).
SCENE_RADIUS = 2.5


def object_bias(x: Float[Tensor, "n 3"], scale: float, radius: float) -> Float[Tensor, " n"]:
    """Return the bias of a soft ball, scale * (1 - |x| / radius)."""
    return scale * (1 - x.norm(dim=-1) / radius)


def scene_bias(x: Float[Tensor, "n 3"], scale: float, radius: float = SCENE_RADIUS) -> Float[Tensor, " n"]:
    """Return the bias of an empty ball with walls beyond `radius`, -scale * (1 - |x| / radius)."""
    return -object_bias(x, scale, radius)


def object_in_scene_bias(
    x: Float[Tensor, "n 3"], scale: float, radius: float, scene_radius: float = SCENE_RADIUS
) -> Float[Tensor, " n"]:
    """Return the bias of a soft ball at the centre of an empty region with walls.

    The two biases are equal, and the result is continuous, at |x| = 2 / (1 / radius + 1 / scene_radius), which
    is 5/6 for the paper's radii 0.5 and 2.5.
    """
    switch = 2 / (1 / radius + 1 / scene_radius)
    inner = x.norm(dim=-1) < switch
    return torch.where(inner, object_bias(x, scale, radius), scene_bias(x, scale, scene_radius))


def initial_bias(x: Float[Tensor, "n 3"], scene: str, scale: float, radius: float) -> Float[Tensor, " n"]:
    """Return the initial density before its activation (ProlificDreamer, 2305.16213, appendix).

    Args:
        x: World positions (N, 3).
        scene: "object", "scene" or "object-in-scene".
        scale: The paper's lambda. Its sign is ignored, because it depends on `scene`.
        radius: Radius of the object; the radius of the scene is SCENE_RADIUS.

    Returns:
        The bias (N,).

    Raises:
        InputError: The scene mode is unknown.
    """
    if scene == "object":
        return object_bias(x, abs(scale), radius)
    if scene == "scene":
        return scene_bias(x, abs(scale))
    if scene == "object-in-scene":
        return object_in_scene_bias(x, abs(scale), radius)
    raise InputError(f"scene must be 'object', 'scene' or 'object-in-scene', got {scene!r}")
