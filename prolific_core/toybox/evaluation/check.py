"""Measure a prior of the Toybox's world: what it draws, against the truth.

Every agreement is the judge's share of right answers on samples over its share
on true renders of the same captions: the judge's own errors are not the
prior's. The judge saw true renders only and nothing is selected by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prolific_core.metrics.fidelity import frechet_distance, nearest_distances
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from prolific_core.toybox.evaluation.classifier import (
    Classifier,
    load_classifier,
    places,
)
from prolific_core.toybox.params import HELD_OUT_SEED, WEIGHTS, Data
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world.captions import (
    article,
    normal_caption,
    pair_caption,
    with_view,
)
from prolific_core.toybox.world.draw import WITH_FRONT, Example

#: name: (kind, split, view or None for any, share of the samples)
GROUPS = {
    "trained": ("colour", "train", None, 0.35),
    "heldout": ("colour", "heldout", None, 0.25),
    "normals": ("normals", "any", None, 0.20),
    "pairs": ("pair", "any", "front", 0.20),
}

#: Number -> (goal, whether more is better), as the issue and the model card state them.
GOALS = {
    "psnr_db": (32, True),
    "family_agreement": (0.95, True),
    "colour_agreement": (0.97, True),
    "view_agreement": (0.85, True),
    "relation_agreement": (0.8, True),
    "normals_family_agreement": (0.85, True),
    "heldout_gap": (0.05, False),
    "nearest_neighbour_ratio": (0.8, True),
    "frechet_ratio": (0.15, False),
    "scorer_retrieval": (0.97, True),
    "unet_gflop": (0.6, False),
    "vae_encode_gflop": (0.3, False),
    "size_mb": (24, False),
}

REFERENCES = 16384  # training renders that a sample may be a copy of


@dataclass(frozen=True)
class Group:
    """Captions, and true renders of them (N, 3, 64, 64) in [0, 1]."""

    captions: list[str]
    truth: Tensor
    labels: list[dict]


def as_tensor(examples: list[Example]) -> Tensor:
    return torch.from_numpy(np.stack([e.image for e in examples]).transpose(0, 3, 1, 2).copy()).float() / 255


def plain_caption(e: Example) -> str:
    """The caption in its plainest words, always with the view."""
    if e.kind == "normals":
        return normal_caption(e.family, e.view)
    if e.kind == "pair":
        return pair_caption((e.family, e.colour), e.relation, e.second, np.random.default_rng(0), e.view)
    return with_view(article(f"a {e.colour} {e.family}"), e.view)


def asked(e: Example) -> bool:
    """Whether the judge has an answer to all that this picture's caption says."""
    if e.kind == "pair":
        return (e.family, e.colour) != tuple(e.second)
    return not e.second and not e.stripes


def group(name: str, count: int, seed: int = HELD_OUT_SEED + 5) -> Group:
    """`count` captions of a group of GROUPS, with their truth."""
    kind, split, view, _ = GROUPS[name]
    found, k = [], 0
    while len(found) < count:
        e = world.draw(seed, k, kind=kind, split=split, view=view)
        k += 1
        if asked(e):
            found.append(e)
    return Group([plain_caption(e) for e in found], as_tensor(found), [e.label() for e in found])


def right_answers(judge: Classifier, images: Tensor, labels: list[dict]) -> dict[str, float]:
    """Share of right answers on single things: `colour` where there is one, `view` where there is a front."""
    right = {"family": [], "colour": [], "view": []}
    for answer, label in zip(judge.answers(images), labels, strict=True):
        right["family"].append(answer["family"] == label["family"])
        if label["kind"] == "colour":
            right["colour"].append(answer["colour"] == label["colour"])
        if label["family"] in WITH_FRONT:
            right["view"].append(answer["view"] == label["view"])
    return {head: float(np.mean(values)) for head, values in right.items() if values}


def right_relations(judge: Classifier, images: Tensor, labels: list[dict]) -> dict[str, float]:
    """On pictures of two things: shares whose relation, both families and both colours are right."""
    answers, right = judge.answers(images), {"relation": [], "families": [], "colours": []}
    for answer, label in zip(answers, labels, strict=True):
        first, second, place = places(label)
        right["relation"].append(answer["place"] in ({"left", "right"} if place is None else {place}))
        right["families"].append((answer["first_family"], answer["second_family"]) == (first[0], second[0]))
        right["colours"].append((answer["first_colour"], answer["second_colour"]) == (first[1], second[1]))
    return {name: float(np.mean(values)) for name, values in right.items()}


def frechet_ratio(judge: Classifier, made: Tensor, truth: Tensor, labels: list[dict]) -> float:
    """Frechet distance of pictures to the truth, over that of true renders of other captions.

    In the judge's features. Mismatched captions must differ as a set, so the
    families are dealt into two halves: the other half's true renders are the
    mismatch of each. The mean of both halves.
    """
    made, truth = judge.judge(made).features, judge.judge(truth).features
    half = torch.tensor([list(world.FAMILIES).index(label["family"]) % 2 == 0 for label in labels])
    mismatch = frechet_distance(truth[half], truth[~half])
    return float(np.mean([frechet_distance(made[h], truth[h]) for h in (half, ~half)])) / mismatch


def nearest_neighbour_ratio(made: Tensor, truth: Tensor, references: Tensor) -> float:
    """Mean distance of samples to their nearest training render, over that of unseen true renders.

    As pixels at 32 x 32. Well below 1, samples are copies.
    """

    def small(x):
        return torch.nn.functional.avg_pool2d(x, 2).flatten(1)

    references = small(references)
    return float(nearest_distances(small(made), references).mean() / nearest_distances(small(truth), references).mean())


def training_renders(count: int, progress: Callable[[int], None]) -> Tensor:
    """The first renders of the training set, again from their seed; progress(done) now and then."""
    found = []
    for start in range(0, count, 512):
        found.append(as_tensor([world.draw(Data().seed, k) for k in range(start, min(start + 512, count))]))
        progress(min(start + 512, count))
    return torch.cat(found)


def measure(
    folder: Path = WEIGHTS,
    count: int = 1000,
    cfg: float = 3.0,
    steps: int = 20,
    references: int = REFERENCES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """All numbers of the model card, by name; the first ones in the order of GOALS.

    `count` samples at guidance scale `cfg` with `steps` of DDIM; the issue's
    numbers are of 1,000. progress(done, total) counts samples.
    """
    prior = LatentDiffusion.load(str(folder))
    judge = load_classifier(folder / "classifier" if (folder / "classifier").is_dir() else None)
    groups = {name: group(name, round(count * share)) for name, (*_, share) in GROUPS.items()}
    made, done, total = (
        {},
        0,
        sum(len(g.labels) for g in groups.values()) + references // 50,
    )  # a render takes a fiftieth of a sample's time
    for name, g in groups.items():
        some = []
        for k in range(0, len(g.captions), 25):
            some.append(
                prior.sample(g.captions[k : k + 25], scale=cfg, steps=steps, generator=generator(1, "check", name, k))
            )
            done += len(some[-1])
            progress(done, total)
        made[name] = torch.cat(some)
    out = dict.fromkeys(GOALS, float("nan")) | _agreements(judge, groups, made)
    truth, samples = (
        torch.cat([of[name] for name in GROUPS]) for of in ({n: g.truth for n, g in groups.items()}, made)
    )
    labels = [label for g in groups.values() for label in g.labels]
    coded = torch.cat([prior.decode(prior.encode(x)) for x in truth.split(64)])
    out["psnr_db"] = float(-10 * torch.log10((coded - truth).square().mean()))
    out["frechet_ratio"] = frechet_ratio(judge, samples, truth, labels)
    out["frechet_ratio_of_autoencoder"] = frechet_ratio(judge, coded, truth, labels)
    seen = training_renders(references, lambda rendered: progress(done + rendered // 50, total))
    out["nearest_neighbour_ratio"] = nearest_neighbour_ratio(samples, truth, seen)
    out |= _scorer(folder) | _costs(prior)
    out["size_mb"] = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e6
    return out | {"samples": len(samples), "cfg": cfg, "steps": steps}


def _agreements(judge: Classifier, groups: dict[str, Group], made: dict[str, Tensor]) -> dict:
    """Agreements, and under "shares" the judge's shares on truth and samples that they come from."""
    shares, out = {}, {}
    for name, g in groups.items():
        right = right_relations if name == "pairs" else right_answers
        shares[name] = {
            "truth": right(judge, g.truth, g.labels),
            "samples": right(judge, made[name], g.labels),
            "count": len(g.labels),
        }

    def agreement(head: str, *names: str) -> float:
        """Over groups, each weighted by its size."""
        weight = [shares[n]["count"] for n in names]
        got, true = (np.average([shares[n][of][head] for n in names], weights=weight) for of in ("samples", "truth"))
        return float(got / max(true, 1e-9))

    for head in ("family", "colour", "view"):
        out[f"{head}_agreement"] = agreement(head, "trained", "heldout")
        out[f"heldout_{head}_agreement"] = agreement(head, "heldout")
        out[f"trained_{head}_agreement"] = agreement(head, "trained")
    out["relation_agreement"] = agreement("relation", "pairs")
    out["pair_families_agreement"], out["pair_colours_agreement"] = (
        agreement("families", "pairs"),
        agreement("colours", "pairs"),
    )
    out["normals_family_agreement"] = agreement("family", "normals")
    out["heldout_gap"] = max(
        out[f"trained_{h}_agreement"] - out[f"heldout_{h}_agreement"] for h in ("family", "colour")
    )
    return out | {"shares": shares}


def _scorer(folder: Path) -> dict:
    """Retrieval among 32 captions, on unseen renders of all pairs of family and colour."""
    from transformers import CLIPModel, CLIPTokenizer

    from prolific_core.toybox.training.scorer import retrieval
    from prolific_core.toybox.training.shards import heldout_images

    if not (Path(folder) / "scorer").is_dir():
        return {}
    model = CLIPModel.from_pretrained(Path(folder) / "scorer").eval()
    tok = CLIPTokenizer.from_pretrained(Path(folder) / "scorer")
    return {"scorer_retrieval": retrieval(model, tok, *heldout_images(count=1024, kinds=("colour",)))}


def _costs(prior: LatentDiffusion) -> dict:
    """GFLOP (a multiply-add is two) of one forward pass on one image."""
    from torch.utils.flop_counter import FlopCounterMode

    side, channels = prior.unet.config.sample_size, prior.unet.config.in_channels
    with torch.no_grad():
        with FlopCounterMode(display=False) as unet:
            prior.predict_noise(torch.zeros(1, channels, side, side), torch.tensor([5]), prior.embed([""]))
        with FlopCounterMode(display=False) as vae:
            prior.encode(torch.zeros(1, 3, prior.resolution, prior.resolution))
    return {"unet_gflop": unet.get_total_flops() / 1e9, "vae_encode_gflop": vae.get_total_flops() / 1e9}
