"""Perp-Neg (Armandpour et al., arXiv 2304.04968), which uses other views as negative prompts.

    eps = uncond + s ( d + sum_i w_i (d_i - proj_d d_i) ),   d = cond - uncond,  d_i = neg_i - uncond

Only the part of each negative direction that is perpendicular to d contributes. The condition is the text embedding
interpolated by azimuth (section 4 of the paper). Between the front and the side, the negative prompts are front and
side. Between the side and the back, they are side and front. Their weights are w = -(a exp(-b r) + c), where r is the
interpolation weight of the view nearer to the front. Overhead views have no negative prompts. The method needs four
evaluations of the prior per image instead of two.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.config import GuidanceConfig
from prolific_core.errors import InputError
from prolific_core.guidance import view_prompts
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times
from prolific_core.view_names import OVERHEAD

# Parameters (a, b, c) of the weights in the authors' code, which stable-dreamfusion and threestudio also use.
SIDE_BACK_SIDE, SIDE_BACK_FRONT = (1, 0.5, -0.606), (1, 0.5, 0.967)
FRONT_SIDE_FRONT = FRONT_SIDE_SIDE = (4, 0.5, -2.426)


def check(config: GuidanceConfig) -> None:
    """Check that view-dependent prompting is enabled.

    Args:
        config: Parameters of the guidance.

    Raises:
        InputError: `config.view_prompts` is false or "precise".
    """
    if not config.view_prompts:
        raise InputError(
            "guidance.combine = 'perp_neg': view_prompts must be enabled; set view_prompts: true, or combine: cfg"
        )
    if config.view_prompts == "precise":
        raise InputError(
            "guidance.combine = 'perp_neg': its negative prompts are front, side and back views, which 'precise' does "
            "not use; set view_prompts: true, or combine: cfg"
        )


def guided(guide: Guidance, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
    """Predict the noise with Perp-Neg guidance.

    Args:
        guide: The guidance whose prompt and scale are used.
        noisy: Noisy latents x_t.
        t: Time steps.
        cameras: Cameras of the views.

    Returns:
        The guided noise.
    """
    words, weights = negatives(cameras)
    texts = [guide.negative(len(noisy)), view_prompts.interpolated(guide.prior, guide.prompt, cameras)]
    texts += [view_prompts.embed(guide.prior, guide.prompt, column) for column in words]
    unconditional, conditional, *others = guide.predict(noisy, t, texts)
    direction = conditional - unconditional
    for other, weight in zip(others, weights.to(noisy).T, strict=True):
        direction = direction + weight[:, None, None, None] * perpendicular(
            other - unconditional, conditional - unconditional
        )
    return unconditional + guide.config.scale * direction


def perpendicular(x: Latents, to: Latents) -> Latents:
    """Remove the projection of `x` onto `to`, separately for each image.

    Args:
        x: Directions.
        to: Directions onto which `x` is projected.

    Returns:
        The part of `x` that is perpendicular to `to`.
    """
    factor = (x * to).sum(dim=(1, 2, 3), keepdim=True) / to.square().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return x - factor * to


def negatives(cameras: Cameras) -> tuple[list[list[str]], Float[Tensor, "batch 2"]]:
    """Return the negative views of each camera and their weights.

    Args:
        cameras: Cameras of the views.

    Returns:
        Two lists with one negative view per camera, and the weights of these views, which are at most 0.
    """
    words: list[tuple[str, str]] = []
    weights: list[tuple[float, float]] = []
    for azimuth, elevation in cameras.angles():
        quarter = abs(math.remainder(azimuth, 2 * math.pi)) / (math.pi / 2)  # 0 is front, 1 is side and 2 is back
        if elevation > OVERHEAD:
            words.append(("side view", "front view"))
            weights.append((0.0, 0.0))
        elif quarter < 1:
            front = 1 - quarter
            words.append(("front view", "side view"))
            weights.append((-_decay(FRONT_SIDE_FRONT, front), -_decay(FRONT_SIDE_SIDE, 1 - front)))
        else:
            side = 2 - quarter
            words.append(("side view", "front view"))
            weights.append((-_decay(SIDE_BACK_SIDE, side), -_decay(SIDE_BACK_FRONT, side)))
    return [list(column) for column in zip(*words, strict=True)], torch.tensor(weights)


def _decay(parameters: tuple[float, float, float], r: float) -> float:
    a, b, c = parameters
    return a * math.exp(-b * r) + c
