"""Measure the shipped models: python -m prolific_core.prior.toybox.measure [--json FILE]

Samples at CFG 3 are judged by the classifier, and its agreement is divided by
its agreement on true renders of the same captions: the judge's own errors are
not the prior's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .files import write_json
from .params import DATA, WEIGHTS


def captions_and_truth(count: int, kind: str = "colour", split: str = "any", seed: int = DATA.heldout_seed + 5):
    """(plain captions with a view word, true images (N, 3, 64, 64) in [0, 1], labels)."""
    from . import world
    from .captions import article, normal_caption, with_view

    examples = [world.draw(seed, k, kind=kind, split=split) for k in range(count)]
    texts = [normal_caption(e.family, e.view) if kind == "normals" else with_view(article(f"a {e.colour} {e.family}"), e.view)
             for e in examples]
    images = np.stack([e.image for e in examples]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return texts, images, [e.label() for e in examples]


def agreement(judge, images, labels: list[dict]) -> dict:
    """Shares of images whose family, colour and (where there is a front) view are as labelled."""
    import torch

    from .world import WITH_FRONT

    seen = judge.judge(torch.as_tensor(images))
    out = {}
    for head in ("family", "colour", "view"):
        right = np.array([seen.names[head][int(i)] == label[head] for i, label in zip(getattr(seen, head), labels)])
        if head == "view":
            right = right[[label["family"] in WITH_FRONT for label in labels]]
        out[head] = float(right.mean())
    return out


def measure(folder: Path = WEIGHTS, count: int = 256, cfg: float = 3.0) -> dict:
    """All numbers of the model card."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    from . import autoencoder, diffusion, scorer
    from .classifier import load_classifier
    from .publish import size_mb
    from .shards import heldout_images

    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tok = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    judge = load_classifier(folder / "classifier")
    out: dict = {"samples": count, "cfg": cfg, "size_mb": size_mb(folder)}
    images, labels = heldout_images(count=256)
    out["psnr_db"] = autoencoder.evaluate(vae, images)
    for kind, split, share in (("colour", "train", count // 2), ("colour", "heldout", count // 4), ("normals", "train", count // 4)):
        texts, truth, labels = captions_and_truth(share, kind, split)
        made = diffusion.sample_images(unet, text_encoder, tok, vae, texts, seed=1, cfg=cfg).numpy()
        true, got = agreement(judge, truth, labels), agreement(judge, made, labels)
        name = "normals" if kind == "normals" else split
        for head in ("family",) if kind == "normals" else ("family", "colour", "view"):
            out[f"{name}_{head}"] = {"truth": true[head], "samples": got[head], "agreement": got[head] / max(true[head], 1e-9)}
    scoring = CLIPModel.from_pretrained(folder / "scorer").eval()
    images, labels = heldout_images(count=512)
    out["scorer_retrieval"] = scorer.retrieval(scoring, tok, images, labels)
    with torch.no_grad():
        with FlopCounterMode(display=False) as flops:
            unet(torch.zeros(1, unet.config.in_channels, 16, 16), torch.tensor([5]), torch.zeros(1, tok.model_max_length, 128))
        out["unet_gflop"] = flops.get_total_flops() / 1e9
        with FlopCounterMode(display=False) as flops:
            vae.encode(torch.zeros(1, 3, 64, 64))
        out["vae_encode_gflop"] = flops.get_total_flops() / 1e9
    return out


def main(argv=None) -> None:
    import json

    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    numbers = measure(args.weights, args.count)
    print(json.dumps(numbers, indent=1))
    if args.json:
        write_json(args.json, numbers)


if __name__ == "__main__":
    main()
