"""A judge: family, colour and view of a picture. Trained on true renders alone.

python -m prolific_core.prior.toybox.classifier

Nothing is ever optimised or selected against it, and it never sees a generated
picture while training: its agreement is a measure, not an objective.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prolific_core.files import write_atomically

from .files import load_checkpoint, log_line, save_checkpoint, write_json
from .params import CLASSIFIER, ROOT, WEIGHTS
from .shards import heldout_images, load_images, load_labels, shard_numbers


HEADS = ("family", "colour", "view")  # the columns of `targets`


@dataclass(frozen=True)
class Judgement:
    """Indices (B,) int64 into the names; features (B, 64) float32; log-probabilities by head."""

    family: object
    colour: object
    view: object
    names: dict
    features: object
    log_probabilities: dict


def build(names: dict, channels=CLASSIFIER.channels, features: int = CLASSIFIER.features):
    """The network; names: {"family": [...], "colour": [...], "view": [...]}."""
    import torch
    from torch import nn

    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.SiLU(),
                             nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.SiLU())

    class Network(nn.Module):
        """(B, 3, 64, 64) in [0, 1] -> ({head: logits}, features (B, 64))."""

        def __init__(self):
            super().__init__()
            widths = (3, *channels)
            self.body = nn.Sequential(*[block(a, b) for a, b in zip(widths, widths[1:])])
            self.project = nn.Linear(channels[-1] * 16, features)
            self.heads = nn.ModuleDict({k: nn.Linear(features, len(v)) for k, v in names.items()})

        def forward(self, images):
            x = self.project(self.body(images * 2 - 1).flatten(1))
            h = torch.nn.functional.silu(x)
            return {k: head(h) for k, head in self.heads.items()}, x

    return Network()


def label_names() -> dict:
    from .world import COLOURS, FAMILIES, VIEWS

    return {"family": list(FAMILIES), "colour": list(COLOURS), "view": list(VIEWS)}


def augment(x, g: np.random.Generator):
    """Mild: shift and scale, blur, noise, brightness; x (B, 3, H, W) in [0, 1]."""
    import torch
    from torch.nn import functional as F

    b = len(x)
    theta = np.zeros((b, 2, 3), np.float32)
    # Zooming out pads with the border, which is the plain background.
    theta[:, 0, 0] = theta[:, 1, 1] = g.uniform(0.8, 1.25, b)
    theta[:, :, 2] = g.uniform(-0.12, 0.12, (b, 2))
    x = F.grid_sample(x, F.affine_grid(torch.from_numpy(theta), x.shape, align_corners=False), padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    k = torch.from_numpy((g.random(b) * (g.random(b) < 0.5)).astype(np.float32))[:, None, None, None]
    x = x * (1 - k) + soft * k
    x = x * torch.from_numpy(g.uniform(0.9, 1.1, (b, 1, 1, 1)).astype(np.float32))
    level = torch.from_numpy((g.uniform(0, 0.04, (b, 1, 1, 1)) * (g.random((b, 1, 1, 1)) < 0.5)).astype(np.float32))
    return (x + level * torch.from_numpy(g.standard_normal(x.shape, dtype=np.float32))).clamp(0, 1)


def targets(labels: list[dict], names: dict):
    """(B, 3) int64: family, colour, view; -100 where a head has no true answer."""
    index = {k: {n: i for i, n in enumerate(v)} for k, v in names.items()}
    rows = []
    for label in labels:
        single = label["kind"] in ("colour", "normals")
        rows.append([index["family"].get(label["family"], -100) if single else -100,
                     index["colour"][label["colour"]] if label["kind"] == "colour" else -100,
                     index["view"][label["view"]] if single else -100])
    return np.array(rows, dtype=np.int64)


def accuracy(network, images: np.ndarray, labels: list[dict], names: dict) -> dict:
    """Share of right answers by head, and of families on normal maps."""
    import torch

    network.eval()
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        outs = [network(b)[0] for b in x.split(128)]
    network.train()
    y, out = targets(labels, names), {}
    right = {k: torch.cat([o[k] for o in outs]).argmax(1).numpy() == y[:, i] for i, k in enumerate(HEADS)}
    normals = np.array([label["kind"] == "normals" for label in labels])
    from .world import WITH_FRONT

    front = np.array([label["family"] in WITH_FRONT for label in labels])
    out["family"] = float(right["family"][~normals].mean())
    out["normals_family"] = float(right["family"][normals].mean()) if normals.any() else float("nan")
    out["colour"] = float(right["colour"][~normals].mean())
    out["view_with_front"] = float(right["view"][front & ~normals].mean())
    return out


def train(root: Path, minutes: float, seed: int = 21) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    names = label_names()
    network = build(names).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=CLASSIFIER.lr, weight_decay=0.02)
    path, step, used = root / "classifier" / "state.pt", 0, 0.0
    state = load_checkpoint(path)
    if state:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, used = state["step"], state["used"]
    shards = shard_numbers(root)
    images = [load_images(root, n) for n in shards]
    answers = [targets(load_labels(root, n), names) for n in shards]
    test_images, test_labels = heldout_images(count=512)
    last, running = time.time(), []

    def checkpoint():
        save_checkpoint(path, {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "used": used})

    while used < minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = CLASSIFIER.lr * min(1, (step + 1) / 100) * max(0.01, 1 - used / (minutes * 60))
        g = np.random.default_rng((seed, step))
        k = int(g.integers(len(shards)))
        rows = np.sort(g.choice(len(images[k]), CLASSIFIER.batch, replace=False))
        x = torch.from_numpy(images[k][rows].transpose(0, 3, 1, 2).copy()).float() / 255
        y = torch.from_numpy(answers[k][rows])
        logits, _ = network(augment(x, g).contiguous(memory_format=torch.channels_last))
        loss = sum(torch.nn.functional.cross_entropy(logits[n], y[:, i], ignore_index=-100, label_smoothing=0.02)
                   for i, n in enumerate(HEADS))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        running.append(float(loss.detach()))
        step += 1
        now = time.time()
        used, last = used + now - last, now
        if step % 200 == 0:
            log_line(root / "curves" / "classifier.jsonl", step=step, loss=float(np.mean(running)), seconds=used,
                     **accuracy(network, test_images, test_labels, names))
            running.clear()
            checkpoint()
    checkpoint()
    publish(root, WEIGHTS / "classifier")


def publish(root: Path, folder: Path) -> None:
    """config.json and fp16 model.safetensors."""
    from safetensors.torch import save

    state = load_checkpoint(root / "classifier" / "state.pt")["network"]
    write_json(folder / "config.json", {"names": label_names(), "channels": list(CLASSIFIER.channels), "features": CLASSIFIER.features,
                                        "image_size": 64, "input": "sRGB in [0, 1]"})
    write_atomically(folder / "model.safetensors",
                     save({k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}))


class Classifier:
    """The trained judge."""

    def __init__(self, network, names: dict):
        self.network, self.names = network.eval().requires_grad_(False), names

    def judge(self, images) -> Judgement:
        """What is seen in images (B, 3, H, W) float in [0, 1], resized to 64 x 64 where needed."""
        import torch

        if images.shape[-2:] != (64, 64):
            images = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        with torch.no_grad():
            outs = [self.network(b) for b in images.float().split(128)]
        logits = {k: torch.cat([o[0][k] for o in outs]).log_softmax(1) for k in self.names}
        return Judgement(*(logits[k].argmax(1) for k in ("family", "colour", "view")), self.names,
                         torch.cat([o[1] for o in outs]), logits)


def load_classifier(path: Path | str | None = None) -> Classifier:
    """From a folder; by default the one that ships."""
    from safetensors.torch import load_file

    folder = Path(path) if path else WEIGHTS / "classifier"
    config = json.loads((folder / "config.json").read_text())
    network = build(config["names"], tuple(config["channels"]), config["features"])
    state = load_file(folder / "model.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return Classifier(network, config["names"])


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--minutes", type=float, default=9)
    args = parser.parse_args(argv)
    train(args.root, args.minutes)


if __name__ == "__main__":
    main()
