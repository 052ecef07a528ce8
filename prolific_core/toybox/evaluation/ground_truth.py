"""Made things beside true ones of the same prompt, from the same cameras: what a known world is for.

For prompts of one thing in the Toybox's world; the judge's features are the only ones used.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.metrics.diversity import saturation
from prolific_core.metrics.fidelity import kernel_distance
from prolific_core.prior.location import TOYBOX

SIZE = 64  # of true renders and of what the judge sees, in pixels


@dataclass(frozen=True)
class Views:
    """Pictures over white (B, 3, S, S) and their opacity (B, 1, S, S), both in [0, 1]."""

    rgb: Tensor
    opacity: Tensor


def true_views(text: str, cameras: Cameras, count: int = 8) -> Views | None:
    """`count` true things of a prompt from every camera, count x B pictures; None where there is no truth."""
    from prolific_core.toybox.world import draw as world
    from prolific_core.toybox.world.renderer import Look

    if world.parse(text) is None:
        return None
    fov = float(cameras.fov[0])
    over = {
        shade: [
            world.render(thing, cameras.c2w.numpy(), fov, Look(background=(shade,) * 3), SIZE)
            for thing in world.sample(text, count)
        ]
        for shade in (0.0, 1.0)
    }
    white, black = (torch.cat([torch.from_numpy(images) for images in over[shade]]) for shade in (1.0, 0.0))
    return Views(white, (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1))


def against_truth(made: Views, truth: Views) -> dict[str, float]:
    """occupied_ratio and saturation_ratio, made over true; kernel_distance, see `features`.

    Empty in an installation without the judge's weights.
    """
    metrics = {
        "occupied_ratio": float(made.opacity.mean() / truth.opacity.mean()),
        "saturation_ratio": saturation_of(made) / saturation_of(truth),
    }
    if not (TOYBOX / "classifier").is_dir():
        return metrics
    return metrics | {"kernel_distance": kernel_distance(features(made.rgb), features(truth.rgb))}


def features(rgb: Tensor) -> Tensor:
    """The judge's features (B, D) of pictures (B, 3, S, S), each in units of its deviation over the whole world."""
    from prolific_core.toybox.evaluation.classifier import load_classifier

    return load_classifier().judge(rgb).features / _deviation()


@cache
def _deviation() -> Tensor:
    """(D,), over 256 true renders of anything."""
    from prolific_core.toybox.evaluation.classifier import load_classifier
    from prolific_core.toybox.world import draw as world

    drawn = torch.stack([torch.from_numpy(world.draw(90_018, k, kind="colour").image) for k in range(256)])
    return load_classifier().judge(drawn.permute(0, 3, 1, 2).float() / 255).features.std(0).clamp(min=1e-6)


def saturation_of(views: Views) -> float:
    """Mean HSV saturation of the thing itself, not of the white around it."""
    inside = views.opacity[:, 0] > 0.99
    pixels = views.rgb.permute(1, 0, 2, 3)[:, inside] if inside.any() else views.rgb.permute(1, 0, 2, 3).flatten(1)
    return saturation(pixels[None, :, :, None])


def fronts(text: str, rgb: Tensor) -> dict[str, float]:
    """In how many separate places of an orbit (B, 3, S, S) the judge sees a front, for families that have one.

    Neighbouring views of one front count once; more than one is the multi-face fault.
    """
    from prolific_core.toybox.world import draw as world

    wanted = world.parse(text)
    if wanted is None or wanted[0] not in world.WITH_FRONT or not (TOYBOX / "classifier").is_dir():
        return {}
    from prolific_core.toybox.evaluation.classifier import load_classifier

    seen = load_classifier().judge(rgb)
    return {"fronts": runs([seen.names["view"][view] == "front" for view in seen.view.tolist()])}


def runs(circle: list[bool]) -> int:
    """How many unbroken stretches of True there are around a circle."""
    starts = sum(here and not before for before, here in zip([circle[-1], *circle[:-1]], circle, strict=True))
    return starts or int(all(circle))
