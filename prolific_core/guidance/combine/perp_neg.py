"""Perp-Neg for view words (Armandpour et al., 2304.04968): the other views as negatives, less what they share.

    eps = uncond + s ( d + sum_i w_i (d_i - proj_d d_i) ),   d = cond - uncond,  d_i = neg_i - uncond

The condition is the text interpolated by azimuth (their section 4). Seen from between front and side,
front and side are negatives; from between side and back, side and front. Their weights are
w = -(a exp(-b r) + c), r the share of the nearer-to-front view; from overhead there are none. Four
evaluations per picture instead of two.
"""

import math

import torch
from torch import Tensor

from prolific_core.errors import InputError
from prolific_core.guidance import view_prompts

# (a, b, c) of the weights, by the authors' own values (stable-dreamfusion and threestudio have the same).
SIDE_BACK_SIDE, SIDE_BACK_FRONT = (1, 0.5, -0.606), (1, 0.5, 0.967)
FRONT_SIDE_FRONT = FRONT_SIDE_SIDE = (4, 0.5, -2.426)


def check(config) -> None:
    if not config.view_prompts:
        raise InputError(
            "guidance.combine = 'perp_neg': its negatives are view words; set view_prompts, or combine: cfg"
        )


def guided(guide, noisy, t, cameras):
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


def perpendicular(x: Tensor, to: Tensor) -> Tensor:
    """x (B, C, h, w) less its projection on `to`, per picture."""
    share = (x * to).sum(dim=(1, 2, 3), keepdim=True) / to.square().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return x - share * to


def negatives(cameras) -> tuple[list[list[str]], Tensor]:
    """Two lists of view words, one word per camera in each, and their weights (B, 2), none positive."""
    words, weights = [], []
    for azimuth, elevation in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True):
        quarter = abs(math.remainder(azimuth, 2 * math.pi)) / (math.pi / 2)  # 0 front, 1 side, 2 back
        if view_prompts.overhead(elevation):
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
