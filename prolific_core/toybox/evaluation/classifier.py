"""A judge: family, colour and view of a picture. Trained on true renders alone.

Nothing is ever optimised or selected against it, and it never sees a generated
picture while training: its agreement is a measure, not an objective.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prolific_core.files import write_atomically
from prolific_core.toybox.files import write_json
from prolific_core.toybox.params import WEIGHTS, Judge
from prolific_core.toybox.training.loop import Training, run, warm_up_and_fall
from prolific_core.toybox.training.shards import Shards, heldout_images

HEADS = ("family", "colour", "view", "first_family", "first_colour", "second_family", "second_colour", "place")

#: Where one thing is seen from another, in the picture: what the head "place" says.
PLACES = ("above", "below", "right", "left", "nearer", "farther")


@dataclass(frozen=True)
class Judgement:
    """Indices (B,) int64 into the names; features (B, 64) float32; log-probabilities by head.

    family, colour and view are of a single thing; the other heads, of two, are
    in log_probabilities only.
    """

    family: object
    colour: object
    view: object
    names: dict
    features: object
    log_probabilities: dict


def build(names: dict, channels=tuple(Judge().channels), features: int = Judge().features):
    """The network; names: {"family": [...], "colour": [...], "view": [...], "place": [...]}."""
    import torch
    from torch import nn

    def block(a, b):
        return nn.Sequential(
            nn.Conv2d(a, b, 3, 2, 1, bias=False),
            nn.BatchNorm2d(b),
            nn.SiLU(),
            nn.Conv2d(b, b, 3, 1, 1, bias=False),
            nn.BatchNorm2d(b),
            nn.SiLU(),
        )

    class Network(nn.Module):
        """(B, 3, 64, 64) in [0, 1] -> ({head: logits}, features (B, 64))."""

        def __init__(self):
            super().__init__()
            widths = (3, *channels)
            self.body = nn.Sequential(*[block(a, b) for a, b in zip(widths, widths[1:])])
            self.project = nn.Linear(channels[-1] * 16, features)
            self.heads = nn.ModuleDict({k: nn.Linear(features, len(names[k.split("_")[-1]])) for k in HEADS})

        def forward(self, images):
            x = self.project(self.body(images * 2 - 1).flatten(1))
            h = torch.nn.functional.silu(x)
            return {k: head(h) for k, head in self.heads.items()}, x

    return Network()


def label_names() -> dict:
    from prolific_core.toybox.world.draw import COLOURS, FAMILIES, VIEWS

    return {"family": list(FAMILIES), "colour": list(COLOURS), "view": list(VIEWS), "place": list(PLACES)}


def augment(x, g: np.random.Generator):
    """Mild: shift and scale, blur, noise, brightness; x (B, 3, H, W) in [0, 1]."""
    import torch
    from torch.nn import functional as F

    b = len(x)
    theta = np.zeros((b, 2, 3), np.float32)
    # Zooming out pads with the border, which is the plain background.
    theta[:, 0, 0] = theta[:, 1, 1] = g.uniform(0.8, 1.25, b)
    theta[:, :, 2] = g.uniform(-0.12, 0.12, (b, 2))
    x = F.grid_sample(
        x,
        F.affine_grid(torch.from_numpy(theta), x.shape, align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    k = torch.from_numpy((g.random(b) * (g.random(b) < 0.5)).astype(np.float32))[:, None, None, None]
    x = x * (1 - k) + soft * k
    x = x * torch.from_numpy(g.uniform(0.9, 1.1, (b, 1, 1, 1)).astype(np.float32))
    level = torch.from_numpy((g.uniform(0, 0.04, (b, 1, 1, 1)) * (g.random((b, 1, 1, 1)) < 0.5)).astype(np.float32))
    return (x + level * torch.from_numpy(g.standard_normal(x.shape, dtype=np.float32))).clamp(0, 1)


def places(label: dict) -> tuple[tuple, tuple, str | None]:
    """((family, colour), (family, colour), place) of a picture of two things, in the order of the names.

    The order makes "a on b" and "b under a" one answer. The place is where the
    first of the two is seen, from the second: one of PLACES, or None where the
    caption does not say (two of a kind, or "next to").
    """
    from prolific_core.toybox.world.draw import COLOURS, FAMILIES
    from prolific_core.toybox.world.scene import RELATIONS

    first, second = (label["family"], label["colour"]), tuple(label["second"])
    direction = np.array(RELATIONS[label["relation"]], dtype=float)

    def order(thing):
        return list(FAMILIES).index(thing[0]), list(COLOURS).index(thing[1])

    if order(second) < order(first):
        first, second, direction = second, first, -direction
    if first == second or label["relation"] == "next to":
        return first, second, None
    a = label["azimuth"]
    right, nearer = direction @ [-np.sin(a), np.cos(a), 0], direction @ [np.cos(a), np.sin(a), 0]
    seen = max((abs(direction[2]), 0, direction[2]), (abs(right), 1, right), (abs(nearer), 2, nearer))
    return first, second, PLACES[2 * seen[1] + int(seen[2] < 0)]


def targets(labels: list[dict], names: dict):
    """(B, heads) int64 in the order of HEADS; -100 where a head has no true answer."""
    index = {k: {n: i for i, n in enumerate(v)} for k, v in names.items()}
    rows = []
    for label in labels:
        row = dict.fromkeys(HEADS, -100)
        if label["kind"] == "pair":
            (fa, ca), (fb, cb), place = places(label)
            row |= {
                "place": PLACES.index(place) if place else -100,
                "first_family": index["family"][fa],
                "first_colour": index["colour"][ca],
                "second_family": index["family"][fb],
                "second_colour": index["colour"][cb],
            }
        elif label["kind"] in ("colour", "normals") and not label["second"]:
            row |= {"family": index["family"][label["family"]], "view": index["view"][label["view"]]}
            if label["kind"] == "colour" and not label["stripes"]:
                row["colour"] = index["colour"][label["colour"]]
        rows.append(list(row.values()))
    return np.array(rows, dtype=np.int64)


def accuracy(network, images: np.ndarray, labels: list[dict], names: dict) -> dict:
    """Share of right answers by head, and of families on normal maps."""
    import torch

    from prolific_core.toybox.world.draw import WITH_FRONT

    network.eval()
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        outs = [network(b)[0] for b in x.split(128)]
    network.train()
    y = targets(labels, names)
    answers = np.stack([torch.cat([o[k] for o in outs]).argmax(1).numpy() for k in HEADS], 1)
    normals = np.array([label["kind"] == "normals" for label in labels])
    front = np.array([label["family"] in WITH_FRONT for label in labels])

    def share(head: str, of) -> float:
        column = HEADS.index(head)
        asked = of & (y[:, column] >= 0)
        return float((answers[:, column] == y[:, column])[asked].mean()) if asked.any() else float("nan")

    out = {head: share(head, ~normals) for head in ("family", "colour", "first_family", "second_family", "place")}
    return out | {"normals_family": share("family", normals), "view_with_front": share("view", front & ~normals)}


def train(shards: Path, config: Judge, state: Path, observe=lambda step, values: None, seed: int = 21):
    """The trained network; resumes from the checkpoint `state`. observe(step, values) is told loss and accuracies."""
    import torch

    torch.manual_seed(seed)  # initial weights only; every draw below is seeded by its step
    names = label_names()
    network = build(names, tuple(config.channels), config.features).train().to(memory_format=torch.channels_last)
    data = Shards(shards)
    answers = [targets(labels, names) for labels in data.labels]
    test_images, test_labels = heldout_images(count=512, kinds=("colour", "normals", "pair"))

    def loss(step: int):
        g = np.random.default_rng((seed, step))
        k, rows = data.pick(g, config.batch)
        x = torch.from_numpy(data.images[k][rows].transpose(0, 3, 1, 2).copy()).float() / 255
        y = torch.from_numpy(answers[k][rows])
        logits, _ = network(augment(x, g).contiguous(memory_format=torch.channels_last))
        total = 0.0
        for i, head in enumerate(HEADS):
            asked = y[:, i] >= 0
            if asked.any():
                share = asked.float().mean().sqrt()  # rare heads would be drowned, or shout
                total = total + share * torch.nn.functional.cross_entropy(
                    logits[head][asked], y[asked, i], label_smoothing=0.02
                )
        return total

    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.02)
    run(
        Training(network, optimizer, loss, warm_up_and_fall(config.learning_rate, config.steps), clip=2.0),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: accuracy(network, test_images, test_labels, names),
    )
    return network


def publish(network, config: Judge, folder: Path) -> None:
    """config.json and fp16 model.safetensors."""
    from safetensors.torch import save

    write_json(
        folder / "config.json",
        {
            "names": label_names(),
            "channels": list(config.channels),
            "features": config.features,
            "image_size": 64,
            "input": "sRGB in [0, 1]",
        },
    )
    weights = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", save({k: v.contiguous() for k, v in weights.items()}))


class Classifier:
    """The trained judge."""

    def __init__(self, network, names: dict):
        self.network, self.names = network.eval().requires_grad_(False), names

    def answers(self, images) -> list[dict[str, str]]:
        """What each head names in each of the images (B, 3, H, W) in [0, 1]."""
        best = {head: log.argmax(1).tolist() for head, log in self.judge(images).log_probabilities.items()}
        return [
            {head: self.names[head.split("_")[-1]][rows[k]] for head, rows in best.items()} for k in range(len(images))
        ]

    def judge(self, images) -> Judgement:
        """What is seen in images (B, 3, H, W) float in [0, 1], resized to 64 x 64 where needed."""
        import torch

        if images.shape[-2:] != (64, 64):
            images = torch.nn.functional.interpolate(
                images, (64, 64), mode="bilinear", antialias=True, align_corners=False
            )
        with torch.no_grad():
            outs = [self.network(b) for b in images.float().split(128)]
        logits = {k: torch.cat([o[0][k] for o in outs]).log_softmax(1) for k in HEADS}
        return Judgement(
            *(logits[k].argmax(1) for k in ("family", "colour", "view")),
            self.names,
            torch.cat([o[1] for o in outs]),
            logits,
        )


def load_classifier(path: Path | str | None = None) -> Classifier:
    """From a folder; by default the one that ships."""
    from safetensors.torch import load_file

    folder = Path(path) if path else WEIGHTS / "classifier"
    config = json.loads((folder / "config.json").read_text())
    network = build(config["names"], tuple(config["channels"]), config["features"])
    state = load_file(folder / "model.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return Classifier(network, config["names"])
