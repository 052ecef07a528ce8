"""Number of U-Net evaluations that a step of a guidance method costs."""

from typing import Any

import torch
from torch import nn

from prolific_core.cameras import Cameras
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents
from prolific_core.seeding import generator

BACKWARD = 2  # a backward pass costs about as much as two forward passes


def evaluations_per_step(guide: Guidance, latents: Latents, cameras: Cameras, samples: int = 12) -> float:
    """Measure the U-Net evaluations of a training step per view, averaged over the progress of a run.

    An evaluation is one forward pass for one image and one text. A pass whose gradient is needed counts as three.

    Args:
        guide: The guidance method. A score network is trained for a few steps, so the method should not be used
            afterwards.
        latents: Latents of some views.
        cameras: Cameras of the views.
        samples: Number of steps, with a progress from 0 to 1.

    Returns:
        Evaluations per view and step.
    """
    rows, score = 0, getattr(guide, "score", None)

    def count(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal rows
        trained = torch.is_grad_enabled() and score is not None and module is score.unet
        rows += len(arguments[0]) * (1 + BACKWARD * trained)

    networks = [guide.prior.unet, *([] if score is None else [score.unet])]
    hooks = [network.register_forward_hook(count) for network in networks]
    for k in range(samples):
        progress = (k + 0.5) / samples
        guide.loss(latents.detach().requires_grad_(), cameras, progress, generator(0, "cost", k))

        def draw(purpose: str, k: int = k) -> torch.Generator:
            return generator(0, "cost", k, purpose)

        guide.train_score_network(latents, cameras, draw)
    for hook in hooks:
        hook.remove()
    return rows / (samples * len(latents))
