"""Classifier two-sample test: how well can a network tell generated images from true ones?

The network is trained on a part of both sets and evaluated on the rest (Lopez-Paz and Oquab, "Revisiting Classifier
Two-Sample Tests", arXiv 1610.06545). An accuracy of 0.5 means that it cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from prolific_core.seeding import generator

FOLDS, SEEDS = 5, 3
EPOCHS, PATIENCE = 30, 8  # Largest number of epochs, and number of epochs without a better loss after which to stop.
BATCH, LEARNING_RATE = 16, 2e-3
CHANNELS = (16, 32, 64, 64)


class _Pool(nn.Module):
    """Mean and maximum of each channel. A flaw may be anywhere in an image, and the mean alone hides it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def build(seed: int) -> nn.Module:
    """Build the network: four convolutions, the mean and the maximum of each channel, and a linear layer.

    Args:
        seed: Seed of the initial weights.

    Returns:
        A network that maps images (batch, 3, 64, 64) in [0, 1] to logits (batch, 1).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for k, (inputs, outputs) in enumerate(zip((3, *CHANNELS), CHANNELS)):
            stride = 2 if k < 3 else 1
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()]
        network = nn.Sequential(*layers, _Pool(), nn.Linear(2 * CHANNELS[-1], 1))
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def logits_of(network: nn.Module, images: Float[Tensor, "images 3 64 64"]) -> Float[Tensor, " images"]:
    """Compute the logits of images without training.

    Args:
        network: Network that `build` returns; it is left in evaluation mode.
        images: sRGB in [0, 1].

    Returns:
        The logits.
    """
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part * 2 - 1)[:, 0] for part in images.split(256)])


def train(
    images: Float[Tensor, "images 3 64 64"],
    made: Float[Tensor, " images"],
    held: tuple[Float[Tensor, "held 3 64 64"], Float[Tensor, " held"]],
    seed: int,
) -> nn.Module:
    """Train a network until its loss on held-out images stops falling.

    Args:
        images: sRGB in [0, 1].
        made: 1 for a generated image and 0 for a true one.
        held: Images and answers that are only used to decide when to stop.
        seed: Seed of the initial weights, the batches and the augmentation.

    Returns:
        The network of the epoch with the smallest held-out loss.
    """
    network, draw = build(seed), generator(seed, "two_sample")
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    best, state, waited = float("inf"), network.state_dict(), 0
    for _ in range(EPOCHS):
        network.train()
        for rows in torch.randperm(len(images), generator=draw).split(BATCH):
            x = images[rows] * 2 - 1
            x = x.flip(3) if torch.rand((), generator=draw) < 0.5 else x
            loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], made[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        current = float(F.binary_cross_entropy_with_logits(logits_of(network, held[0]), held[1]))
        waited += 1
        if current < best:
            best, waited = current, 0
            state = {name: value.clone() for name, value in network.state_dict().items()}
        if waited >= PATIENCE:
            break
    network.load_state_dict(state)
    return network


def accuracy(
    made: Float[Tensor, "images 3 64 64"],
    truth: Float[Tensor, "images 3 64 64"],
    seeds: int = SEEDS,
    progress: Callable[[], None] = lambda: None,
) -> float:
    """Compute the accuracy with which networks tell two sets of images apart.

    Both sets are divided into `FOLDS` folds. Each fold is classified by a network that is trained on the others, of
    which an eighth decides when the training stops. Images with the same index are in the same fold, so no network has
    seen the caption of an image that it classifies.

    Args:
        made: Generated images in [0, 1].
        truth: True images of the same captions, in the same order.
        seeds: Number of repetitions with other folds, weights and batches.
        progress: Callback that is called after each network.

    Returns:
        The largest accuracy of all repetitions, each the mean over its folds.
    """
    return max(_repetition(made, truth, seed, progress) for seed in range(seeds))


def _repetition(made: Tensor, truth: Tensor, seed: int, progress: Callable[[], None]) -> float:
    """Return the mean accuracy over the folds of one seed."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(made)))
    right = []
    for fold in range(FOLDS):
        test, rest = order[fold::FOLDS], torch.cat([order[k::FOLDS] for k in range(FOLDS) if k != fold])
        held, used = rest[: len(rest) // 8], rest[len(rest) // 8 :]
        network = train(*_both(made, truth, used), _both(made, truth, held), 100 * seed + fold)
        images, answers = _both(made, truth, test)
        right.append(float(((logits_of(network, images) > 0) == (answers > 0.5)).float().mean()))
        progress()
    return float(np.mean(right))


def _both(made: Tensor, truth: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the given rows of both sets, and 1 for each generated image and 0 for each true one."""
    images = torch.cat([made[rows], truth[rows]]).contiguous(memory_format=torch.channels_last)
    return images, torch.cat([torch.ones(len(rows)), torch.zeros(len(rows))])
