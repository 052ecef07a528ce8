"""Initial density of a radiance field (ProlificDreamer, arXiv 2305.16213, appendix)."""

import torch
from jaxtyping import Float
from torch import Tensor

#: Radius of the hollow in the initial density of a 360-degree scene (ProlificDreamer, arXiv 2305.16213, appendix).
SCENE_RADIUS = 2.5


def initial_bias(x: Float[Tensor, "n 3"], scene: str, scale: float, radius: float) -> Float[Tensor, " n"]:
    """Return the initial density before its activation.

    With d = |x|, an object is a soft ball, scale * (1 - d / radius). A 360-degree scene is hollow, with walls beyond
    R = SCENE_RADIUS: -scale * (1 - d / R). An object in a scene is the ball inside the hollow. The two formulas are
    equal at d = 2 / (1 / radius + 1 / R), so that the result is continuous. This distance is 5/6 for the paper's radii
    0.5 and 2.5.

    Args:
        x: World positions (N, 3).
        scene: "object", "scene" or "object-in-scene".
        scale: The paper's lambda. Its sign is ignored, because `scene` determines the sign.
        radius: Radius of the object.

    Returns:
        The bias (N,).
    """
    distance = x.norm(dim=-1)
    if scene == "object":
        return abs(scale) * (1 - distance / radius)
    hollow = -(abs(scale) * (1 - distance / SCENE_RADIUS))
    if scene == "scene":
        return hollow
    inner = distance < 2 / (1 / radius + 1 / SCENE_RADIUS)
    return torch.where(inner, initial_bias(x, "object", scale, radius), hollow)
