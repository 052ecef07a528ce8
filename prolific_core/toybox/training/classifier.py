"""Training of the classifier on true renders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from prolific_core.files import write_atomically, write_json
from prolific_core.toybox.evaluation.classifier import HEADS, ClassifierNetwork
from prolific_core.toybox.params import ClassifierConfig
from prolific_core.toybox.training.loop import Training, run, warm_up_and_decay
from prolific_core.toybox.training.shards import Shards, heldout_images, to_float
from prolific_core.toybox.world.families import COLOURS, FAMILIES, WITH_FRONT
from prolific_core.toybox.world.scene import PLACES, relative_place
from prolific_core.view_names import side_of

SECTORS = 12  # Number of azimuth sectors, an auxiliary target that teaches angles near the borders of views.
NAMES = {
    "family": list(FAMILIES),
    "colour": list(COLOURS),
    "view": ["front", "left side", "right side", "back", "overhead"],
    "sector": [str(30 * k - 180) for k in range(SECTORS)],
    "place": list(PLACES),
}


def augment(x: Float[Tensor, "batch 3 height width"], g: np.random.Generator) -> Float[Tensor, "batch 3 height width"]:
    """Apply mild random shifts, scaling, blur, brightness changes and noise to images.

    Args:
        x: sRGB in [0, 1].
        g: Random number generator.

    Returns:
        The augmented images, in [0, 1].
    """
    b = len(x)
    theta = np.zeros((b, 2, 3), np.float32)
    # A scale above 1 shrinks the image and pads it with its border, which is the uniform background.
    theta[:, 0, 0] = theta[:, 1, 1] = g.uniform(0.8, 1.25, b)
    theta[:, :, 2] = g.uniform(-0.12, 0.12, (b, 2))
    grid = F.affine_grid(torch.from_numpy(theta), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    k = torch.from_numpy((g.random(b) * (g.random(b) < 0.5)).astype(np.float32))[:, None, None, None]
    x = x * (1 - k) + soft * k
    x = x * torch.from_numpy(g.uniform(0.9, 1.1, (b, 1, 1, 1)).astype(np.float32))
    level = torch.from_numpy((g.uniform(0, 0.04, (b, 1, 1, 1)) * (g.random((b, 1, 1, 1)) < 0.5)).astype(np.float32))
    return (x + level * torch.from_numpy(g.standard_normal(x.shape, dtype=np.float32))).clamp(0, 1)


def targets(labels: list[dict]) -> Int[np.ndarray, "batch heads"]:
    """Return the target class of each head for each image.

    Args:
        labels: Labels of the images; see `Example.label`.

    Returns:
        Class indices in the order of `HEADS`. The index is -100 if a head has no target for an image.
    """
    index = {kind: {name: i for i, name in enumerate(names)} for kind, names in NAMES.items()}
    rows = []
    for label in labels:
        row = dict.fromkeys(HEADS, -100)
        if label["kind"] == "pair":
            (first_family, first_colour), (second_family, second_colour), place = relative_place(label)
            row |= {
                "place": PLACES.index(place) if place else -100,
                "first_family": index["family"][first_family],
                "first_colour": index["colour"][first_colour],
                "second_family": index["family"][second_family],
                "second_colour": index["colour"][second_colour],
            }
        elif label["kind"] in ("colour", "normals") and not label["second"]:
            row["family"] = index["family"][label["family"]]
            if label["family"] in WITH_FRONT:
                row["view"] = index["view"][side_of(label["view"], label["azimuth"])]
                row["sector"] = int((label["azimuth"] + np.pi) / (2 * np.pi) * SECTORS) % SECTORS
            if label["kind"] == "colour" and not label["stripes"]:
                row["colour"] = index["colour"][label["colour"]]
        rows.append(list(row.values()))
    return np.array(rows, dtype=np.int64)


def accuracy(
    network: ClassifierNetwork, images: UInt8[np.ndarray, "batch height width 3"], labels: list[dict]
) -> dict[str, float]:
    """Compute the accuracy of each head on colour images, and of the family head on normal maps.

    Args:
        network: Network to evaluate, which is left in training mode.
        images: sRGB images.
        labels: Labels of the images.

    Returns:
        Accuracies by name. The accuracy of a head without any targets is NaN.
    """
    network.eval()
    with torch.no_grad():
        outputs = [network(part)[0] for part in to_float(images).split(128)]
    network.train()
    truth = targets(labels)
    answers = np.stack([torch.cat([logits[head] for logits in outputs]).argmax(1).numpy() for head in HEADS], 1)
    normals = np.array([label["kind"] == "normals" for label in labels])

    def fraction(head: str, chosen: np.ndarray) -> float:
        column = HEADS.index(head)
        known = chosen & (truth[:, column] >= 0)
        return float((answers[:, column] == truth[:, column])[known].mean()) if known.any() else float("nan")

    heads = ("family", "colour", "first_family", "second_family", "place")
    return {head: fraction(head, ~normals) for head in heads} | {
        "normals_family": fraction("family", normals),
        "view": fraction("view", ~normals),
    }


def loss_of(logits: dict[str, Tensor], truth: Int[Tensor, "batch heads"]) -> Float[Tensor, ""]:
    """Compute the weighted sum of the heads' cross entropies.

    The weight of a head is the square root of the fraction of images for which it has a target. With the fraction
    itself as weight, heads with few targets would hardly be trained; with equal weights, they would dominate.

    Args:
        logits: Logits (batch, classes) by head.
        truth: Target classes in the order of `HEADS`. The target is -100 if a head has no target for an image.

    Returns:
        The loss.
    """
    total = torch.zeros(())
    for i, head in enumerate(HEADS):
        known = truth[:, i] >= 0
        if known.any():
            weight = known.float().mean().sqrt()
            total = total + weight * F.cross_entropy(logits[head][known], truth[known, i], label_smoothing=0.02)
    return total


def kind_weights(labels: list[dict], pairs: float) -> Float[np.ndarray, " images"]:
    """Return probabilities of drawing images, so that a given fraction of the draws are images of two objects.

    Args:
        labels: Labels of the images.
        pairs: Fraction of the images of two objects.

    Returns:
        Probabilities, which sum to 1. Images without any target have a probability of 0.
    """
    told = (targets(labels) >= 0).any(1)
    both = np.array([label["kind"] == "pair" for label in labels])
    groups = [(told & both, pairs), (told & ~both, 1 - pairs)]
    weights = sum((np.where(chosen, fraction / max(chosen.sum(), 1), 0.0) for chosen, fraction in groups), np.zeros(1))
    return weights / weights.sum()


def train(
    shards: Path,
    config: ClassifierConfig,
    state: Path,
    observe: Callable[[int, dict], None] = lambda step, values: None,
    seed: int = 21,
) -> ClassifierNetwork:
    """Train the classifier, or resume its training.

    Args:
        shards: Folder of the rendered shards.
        config: Parameters of the network and its training.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the step and its metrics: loss, learning rate and accuracies.
        seed: Seed of the initial weights and of the random numbers of all steps.

    Returns:
        The trained network.
    """
    torch.manual_seed(seed)  # This affects only the initial weights, because each step seeds its own generator.
    network = ClassifierNetwork(NAMES, config.channels, config.features, config.pair_features).train()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    data = Shards(shards)
    answers = [targets(labels) for labels in data.labels]
    weights = [kind_weights(labels, config.pairs) for labels in data.labels]
    test_images, test_labels = heldout_images(count=512, kinds=("colour", "normals", "pair"))

    def loss(step: int) -> Tensor:
        g = np.random.default_rng((seed, step))
        k = int(g.integers(len(data.images)))
        rows = np.sort(g.choice(len(weights[k]), min(config.batch, np.count_nonzero(weights[k])), False, weights[k]))
        images = augment(to_float(data.images[k][rows]), g).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = network(images)[0]
        return loss_of({head: x.float() for head, x in logits.items()}, torch.from_numpy(answers[k][rows]))

    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.02, fused=True)
    run(
        Training(network, optimizer, loss, warm_up_and_decay(config.learning_rate, config.steps), clip=2.0),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: accuracy(network, test_images, test_labels),
    )
    return network


def publish(network: ClassifierNetwork, config: ClassifierConfig, folder: Path) -> None:
    """Write the classifier as config.json and model.safetensors in half precision.

    Args:
        network: Trained network.
        config: Parameters that the network was built with.
        folder: Folder to write to.
    """
    write_json(
        folder / "config.json",
        {
            "names": NAMES,
            "channels": config.channels,
            "features": config.features,
            "pair_features": config.pair_features,
            "image_size": 64,
            "input": "sRGB in [0, 1]",
        },
        indent=1,
    )
    weights = {name: v.half() if v.is_floating_point() else v for name, v in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", save({name: v.contiguous() for name, v in weights.items()}))
