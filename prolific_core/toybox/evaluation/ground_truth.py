"""Metrics that compare generated objects with true objects of the same prompt.

Both are rendered from the same cameras. The metrics are defined for prompts that describe one object of the Toybox
world, and use the features of the Toybox classifier.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.metrics.diversity import saturation
from prolific_core.metrics.fidelity import kernel_distance
from prolific_core.prior.location import TOYBOX

SIZE = 64  # Height and width of true renders and of the classifier's input, in pixels.


@dataclass(frozen=True)
class Views:
    """Images of an object over a white background.

    Attributes:
        rgb: Images in [0, 1].
        opacity: Opacity in [0, 1].
    """

    rgb: Float[Tensor, "views 3 height width"]
    opacity: Float[Tensor, "views 1 height width"]


def true_views(text: str, cameras: Cameras, count: int = 8, seed: int = 0) -> Views | None:
    """Render true objects that match a prompt.

    Args:
        text: Prompt.
        cameras: Cameras with the same field of view.
        count: Number of objects.
        seed: Seed of the objects.

    Returns:
        One image per object and camera, or None if the prompt cannot be parsed.
    """
    white, black = (_over(shade, text, cameras, count, seed) for shade in (1.0, 0.0))
    if white is None or black is None:
        return None
    return Views(white, (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1))


def _over(
    shade: float, text: str, cameras: Cameras, count: int, seed: int
) -> Float[Tensor, "views 3 height width"] | None:
    """Render true objects over a grey background, or return None if the prompt cannot be parsed."""
    from prolific_core.toybox.world import draw as world
    from prolific_core.toybox.world.scene import Look

    if world.parse(text) is None:
        return None
    look, poses, fov = Look(background=(shade, shade, shade)), cameras.c2w.numpy(), float(cameras.fov[0])
    images = [world.render(scene, poses, fov, look, SIZE) for scene in world.sample(text, count, seed)]
    return torch.cat([torch.from_numpy(part) for part in images])


def own_distance(text: str, cameras: Cameras, truth: Views, count: int = 64) -> float | None:
    """Compute the median of `own_distances`.

    Args:
        text: Prompt that `true_views` can parse.
        cameras: Cameras of `truth`.
        truth: Views of true objects.
        count: Number of single objects.

    Returns:
        The median, or None if the prompt cannot be parsed or the classifier's weights are not installed.
    """
    distances = own_distances(text, cameras, truth, count)
    return None if distances is None else float(np.median(distances))


def own_distances(text: str, cameras: Cameras, truth: Views, count: int = 64) -> list[float] | None:
    """Compute the kernel distances that single true objects have from the true objects of their prompt.

    A single object cannot be as diverse as a set of them, so even a perfect object has a kernel distance above 0. For
    prompts whose objects vary a lot, it is large.

    Args:
        text: Prompt that `true_views` can parse.
        cameras: Cameras of `truth`.
        truth: Views of true objects.
        count: Number of single objects, none of which is among those of `truth`.

    Returns:
        The kernel distance of each single object, or None if the prompt cannot be parsed or the classifier's weights
        are not installed.
    """
    singles = _over(1.0, text, cameras, count, seed=1)
    if singles is None or not (TOYBOX / "classifier").is_dir():
        return None
    target = features(truth.rgb)
    return [kernel_distance(one, target) for one in features(singles).split(len(cameras))]


def against_truth(made: Views, truth: Views, own: float | None = None) -> dict[str, float]:
    """Compare views of a generated object with views of true objects.

    Args:
        made: Views of the generated object.
        truth: Views of true objects of the same prompt.
        own: The `own_distance` of the prompt.

    Returns:
        `occupied_ratio` and `saturation_ratio`, each the value of the generated object divided by that of the true
        objects, the `kernel_distance` between the features and, if `own` is given, `kernel_distance_excess`, which is
        the kernel distance minus `own`. The distances are omitted if the classifier's weights are not installed.
    """
    metrics = {
        "occupied_ratio": float(made.opacity.mean() / truth.opacity.mean()),
        "saturation_ratio": saturation_of(made) / saturation_of(truth),
    }
    if not (TOYBOX / "classifier").is_dir():
        return metrics
    distance = kernel_distance(features(made.rgb), features(truth.rgb))
    excess = {} if own is None else {"kernel_distance_excess": distance - own}
    return metrics | {"kernel_distance": distance} | excess


def features(rgb: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "views features"]:
    """Compute normalised classifier features of images.

    Args:
        rgb: Images in [0, 1].

    Returns:
        Features, each divided by its standard deviation over random renders of the world.
    """
    from prolific_core.toybox.evaluation.classifier import load_classifier

    return load_classifier().classify(rgb).features / _deviation()


@cache
def _deviation() -> Tensor:
    """Compute the standard deviation (D,) of the features over 256 true renders of random prompts."""
    from prolific_core.toybox.evaluation.classifier import load_classifier
    from prolific_core.toybox.world import draw as world

    drawn = torch.stack([torch.from_numpy(world.draw(90_018, k, kind="colour").image) for k in range(256)])
    return load_classifier().classify(drawn.permute(0, 3, 1, 2).float() / 255).features.std(0).clamp(min=1e-6)


def saturation_of(views: Views) -> float:
    """Compute the mean HSV saturation of an object, excluding the background.

    Args:
        views: Views of the object.

    Returns:
        The mean saturation, in [0, 1].
    """
    inside = views.opacity[:, 0] > 0.99
    pixels = views.rgb.permute(1, 0, 2, 3)[:, inside] if inside.any() else views.rgb.permute(1, 0, 2, 3).flatten(1)
    return saturation(pixels[None, :, :, None])


def fronts(text: str, rgb: Float[Tensor, "views 3 height width"]) -> dict[str, int]:
    """Compute the Janus count, which is the number of fronts that the classifier detects around an object.

    Adjacent front views count as one front. An object with more than one front has the Janus problem.

    Args:
        text: Prompt.
        rgb: Images in [0, 1] from cameras on an orbit around the object, in order.

    Returns:
        The Janus count under the key `fronts`. The dict is empty if the prompt cannot be parsed, if its family has no
        front, or if the classifier's weights are not installed.
    """
    from prolific_core.toybox.world import draw as world

    wanted = world.parse(text)
    if wanted is None or wanted[0] not in world.WITH_FRONT or not (TOYBOX / "classifier").is_dir():
        return {}
    from prolific_core.toybox.evaluation.classifier import load_classifier

    predicted = load_classifier().classify(rgb)
    return {"fronts": runs([predicted.names["view"][view] == "front" for view in predicted.view.tolist()])}


def runs(circle: list[bool]) -> int:
    """Count the contiguous runs of True in a circular sequence.

    Args:
        circle: Values in order; the last is adjacent to the first.

    Returns:
        The number of runs.
    """
    starts = sum(here and not before for before, here in zip([circle[-1], *circle[:-1]], circle, strict=True))
    return starts or int(all(circle))
