"""Evaluation of a prior of the Toybox world by comparing its samples with true renders.

A classifier agreement is the classifier's accuracy on samples divided by its accuracy on true renders of the same
captions, so that errors of the classifier itself do not count against the prior. The classifier is trained on true
renders only and is never used for optimisation or selection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.metrics.fidelity import frechet_distance, nearest_distances
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from prolific_core.toybox.evaluation.classifier import Classifier, load_classifier
from prolific_core.toybox.params import HELD_OUT_SEED, WEIGHTS, RenderConfig
from prolific_core.toybox.training.scorer import retrieval
from prolific_core.toybox.training.shards import heldout_images, to_float
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world.captions import article, normal_caption, pair_caption, with_view
from prolific_core.toybox.world.details import side_of
from prolific_core.toybox.world.draw import WITH_FRONT, Example
from prolific_core.toybox.world.scene import relative_place

#: Kind, split, view (None for any) and fraction of the samples for each group of captions.
GROUPS = {
    "trained": ("colour", "train", None, 0.35),
    "heldout": ("colour", "heldout", None, 0.25),
    "normals": ("normals", "any", None, 0.20),
    "pairs": ("pair", "any", "front", 0.20),
}

#: Goal of each metric and whether higher is better, as stated in the model card.
GOALS = {
    "psnr_db": (34, True),
    "family_agreement": (0.98, True),
    "colour_agreement": (0.99, True),
    "view_agreement": (0.95, True),
    "side_agreement": (0.95, True),
    "relation_agreement": (0.8, True),
    "normals_family_agreement": (0.97, True),
    "heldout_gap": (0.03, False),
    "nearest_neighbour_ratio": (0.8, True),
    "frechet_ratio": (0.05, False),
    "scorer_retrieval": (0.98, True),
    "unet_gflop": (0.6, False),
    "vae_encode_gflop": (0.3, False),
    "size_mb": (32, False),
}

REFERENCES = 16384  # Number of training renders that samples are compared with to detect copies.


@dataclass(frozen=True)
class Group:
    """Captions with their true renders and labels.

    Attributes:
        captions: Captions in their simplest wording; see `plain_caption`.
        truth: True renders of the captions, in [0, 1].
        labels: Labels of the renders; see `Example.label`.
    """

    captions: list[str]
    truth: Float[Tensor, "images 3 64 64"]
    labels: list[dict]


def as_tensor(examples: list[Example]) -> Float[Tensor, "images 3 size size"]:
    """Stack the images of examples into a tensor.

    Args:
        examples: Examples whose images have the same size.

    Returns:
        Images in [0, 1].
    """
    return to_float(np.stack([e.image for e in examples]))


def plain_caption(e: Example) -> str:
    """Return the simplest caption of an example.

    The caption always names the view, and the side of a single object with a front.

    Args:
        e: Example to describe.

    Returns:
        The caption.
    """
    view = side_of(e.view, e.azimuth) if e.family in WITH_FRONT and not e.second else e.view
    if e.kind == "normals":
        return normal_caption(e.family, view)
    if e.second and e.relation:
        return pair_caption((e.family, e.colour), e.relation, e.second, np.random.default_rng(0), view)
    return with_view(article(f"a {e.colour} {e.family}"), view)


def classifiable(e: Example) -> bool:
    """Return whether the classifier can predict everything that the caption of an example describes.

    Args:
        e: Example to test.

    Returns:
        True for a single object without stripes and for a pair of different objects.
    """
    if e.kind == "pair" and e.second:
        return (e.family, e.colour) != tuple(e.second)
    return not e.second and not e.stripes


def group(name: str, count: int, seed: int = HELD_OUT_SEED + 5) -> Group:
    """Sample captions together with their true renders and labels.

    Args:
        name: Key of `GROUPS`.
        count: Number of captions.
        seed: Random seed.

    Returns:
        The group of `count` captions.
    """
    kind, split, view, _ = GROUPS[name]
    found, k = [], 0
    while len(found) < count:
        e = world.draw(seed, k, kind=kind, split=split, view=view)
        k += 1
        if classifiable(e):
            found.append(e)
    return Group([plain_caption(e) for e in found], as_tensor(found), [e.label() for e in found])


def right_answers(
    classifier: Classifier, images: Float[Tensor, "images 3 64 64"], labels: list[dict]
) -> dict[str, float]:
    """Compute the classifier's accuracies on images of single objects.

    Args:
        classifier: Trained classifier.
        images: Images in [0, 1].
        labels: True labels of the images.

    Returns:
        Accuracies under the keys "family" (all images), "colour" (coloured images), "view" (images of families with a
        front, where left and right sides count as one view) and "side" (images from the side of families with a front,
        where the side must be the right one). An accuracy is omitted if it applies to none of the images.
    """
    right: dict[str, list[bool]] = {"family": [], "colour": [], "view": [], "side": []}
    for answer, label in zip(classifier.answers(images), labels, strict=True):
        right["family"].append(answer["family"] == label["family"])
        if label["kind"] == "colour":
            right["colour"].append(answer["colour"] == label["colour"])
        if label["family"] in WITH_FRONT:
            right["view"].append(answer["view"].split()[-1] == label["view"])
            if label["view"] == "side":
                right["side"].append(answer["view"] == side_of("side", label["azimuth"]))
    return {head: float(np.mean(values)) for head, values in right.items() if values}


def right_relations(
    classifier: Classifier, images: Float[Tensor, "images 3 64 64"], labels: list[dict]
) -> dict[str, float]:
    """Compute the classifier's accuracies on images of two objects.

    Args:
        classifier: Trained classifier.
        images: Images in [0, 1].
        labels: True labels of the images.

    Returns:
        Accuracies under the keys "relation", "families" and "colours". Families and colours count as correct only if
        they are correct for both objects.
    """
    right: dict[str, list[bool]] = {"relation": [], "families": [], "colours": []}
    for answer, label in zip(classifier.answers(images), labels, strict=True):
        first, second, place = relative_place(label)
        right["relation"].append(answer["place"] in ({"left", "right"} if place is None else {place}))
        right["families"].append((answer["first_family"], answer["second_family"]) == (first[0], second[0]))
        right["colours"].append((answer["first_colour"], answer["second_colour"]) == (first[1], second[1]))
    return {name: float(np.mean(values)) for name, values in right.items()}


def frechet_ratio(
    classifier: Classifier,
    made: Float[Tensor, "images 3 64 64"],
    truth: Float[Tensor, "images 3 64 64"],
    labels: list[dict],
) -> float:
    """Compute the Frechet distance between images and true renders, relative to a reference distance.

    The families are divided into two halves. The reference is the distance between the true renders of the two halves.
    All distances are computed on the classifier's features.

    Args:
        classifier: Classifier whose features are used.
        made: Generated images in [0, 1].
        truth: True renders of the same captions, in the same order.
        labels: Labels of the renders.

    Returns:
        The mean ratio over both halves, which is 0 for the true renders themselves and about 1 for unrelated images.
    """
    made, truth = classifier.classify(made).features, classifier.classify(truth).features
    half = torch.tensor([list(world.FAMILIES).index(label["family"]) % 2 == 0 for label in labels])
    mismatch = frechet_distance(truth[half], truth[~half])
    return float(np.mean([frechet_distance(made[h], truth[h]) for h in (half, ~half)])) / mismatch


def nearest_neighbour_ratio(
    made: Float[Tensor, "made 3 64 64"],
    truth: Float[Tensor, "truth 3 64 64"],
    references: Float[Tensor, "references 3 64 64"],
) -> float:
    """Compute the nearest-neighbour distance of samples, divided by that of unseen renders.

    The nearest-neighbour distance is the mean distance from an image to its nearest training render, computed on the
    pixels at a resolution of 32 x 32.

    Args:
        made: Generated images in [0, 1].
        truth: True renders that are not among the training renders.
        references: Training renders.

    Returns:
        The ratio, which is well below 1 if the samples are copies of training renders.
    """

    def small(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2).flatten(1)

    references = small(references)
    return float(nearest_distances(small(made), references).mean() / nearest_distances(small(truth), references).mean())


def training_renders(count: int, progress: Callable[[int], None]) -> Float[Tensor, "{count} 3 64 64"]:
    """Render the first images of the training set again.

    Args:
        count: Number of images.
        progress: Callback that receives the number of rendered images.

    Returns:
        Images in [0, 1].
    """
    found = []
    for start in range(0, count, 512):
        found.append(as_tensor([world.draw(RenderConfig().seed, k) for k in range(start, min(start + 512, count))]))
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
    """Compute all metrics of the model card.

    Args:
        folder: Model folder.
        count: Number of samples; the model card uses 1,000.
        cfg: Scale of classifier-free guidance.
        steps: Number of DDIM steps.
        references: Number of training renders for the nearest-neighbour ratio.
        progress: Callback that receives the finished work and the total work, both measured in samples.

    Returns:
        Metrics by name, starting with those of `GOALS` in the same order.
    """
    prior = LatentDiffusion.load(str(folder))
    classifier = load_classifier(folder / "classifier" if (folder / "classifier").is_dir() else None)
    groups = {name: group(name, round(count * fraction)) for name, (*_, fraction) in GROUPS.items()}
    made: dict[str, Tensor] = {}
    done = 0
    total = sum(len(g.labels) for g in groups.values()) + references // 50  # 50 renders count as one sample.
    for name, g in groups.items():
        some = []
        for k in range(0, len(g.captions), 25):
            some.append(
                prior.sample(g.captions[k : k + 25], scale=cfg, steps=steps, generator=generator(1, "check", name, k))
            )
            done += len(some[-1])
            progress(done, total)
        made[name] = torch.cat(some)
    out = dict.fromkeys(GOALS, float("nan")) | _agreements(classifier, groups, made)
    truth, samples = torch.cat([groups[name].truth for name in GROUPS]), torch.cat([made[name] for name in GROUPS])
    labels = [label for g in groups.values() for label in g.labels]
    coded = torch.cat([prior.decode(prior.encode(x)) for x in truth.split(64)])
    out["psnr_db"] = float(-10 * torch.log10((coded - truth).square().mean()))
    out["frechet_ratio"] = frechet_ratio(classifier, samples, truth, labels)
    out["frechet_ratio_of_autoencoder"] = frechet_ratio(classifier, coded, truth, labels)
    seen = training_renders(references, lambda rendered: progress(done + rendered // 50, total))
    out["nearest_neighbour_ratio"] = nearest_neighbour_ratio(samples, truth, seen)
    out |= _scorer(folder) | _costs(prior)
    out["size_mb"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    return out | {"samples": len(samples), "cfg": cfg, "steps": steps}


def _agreements(classifier: Classifier, groups: dict[str, Group], made: dict[str, Tensor]) -> dict:
    """Return the classifier agreements.

    The key "shares" holds the accuracies from which the agreements are computed.
    """
    fractions, out = {}, {}
    for name, g in groups.items():
        right = right_relations if name == "pairs" else right_answers
        fractions[name] = {
            "truth": right(classifier, g.truth, g.labels),
            "samples": right(classifier, made[name], g.labels),
            "count": len(g.labels),
        }

    def agreement(head: str, *names: str) -> float:
        """Return the agreement over several groups, weighted by their sizes."""
        weight = [fractions[name]["count"] for name in names]
        got, true = (
            np.average([fractions[name][source][head] for name in names], weights=weight)
            for source in ("samples", "truth")
        )
        return float(got / max(true, 1e-9))

    for head in ("family", "colour", "view", "side"):
        out[f"{head}_agreement"] = agreement(head, "trained", "heldout")
        out[f"heldout_{head}_agreement"] = agreement(head, "heldout")
        out[f"trained_{head}_agreement"] = agreement(head, "trained")
    out["relation_agreement"] = agreement("relation", "pairs")
    out["pair_families_agreement"] = agreement("families", "pairs")
    out["pair_colours_agreement"] = agreement("colours", "pairs")
    out["normals_family_agreement"] = agreement("family", "normals")
    out["heldout_gap"] = max(
        out[f"trained_{head}_agreement"] - out[f"heldout_{head}_agreement"] for head in ("family", "colour")
    )
    return out | {"shares": fractions}


def _scorer(folder: Path) -> dict:
    """Return the scorer's retrieval accuracy on unseen renders, or an empty dict if the model has no scorer."""
    from transformers import CLIPModel, CLIPTokenizer

    if not (folder / "scorer").is_dir():
        return {}
    model = CLIPModel.from_pretrained(folder / "scorer").eval()
    tok = CLIPTokenizer.from_pretrained(folder / "scorer")
    return {"scorer_retrieval": retrieval(model, tok, *heldout_images(count=1024, kinds=("colour",)))}


def _costs(prior: LatentDiffusion) -> dict:
    """Return the cost of a forward pass of the U-Net and of the image encoder, in GFLOP.

    A multiply-add counts as two operations.
    """
    from torch.utils.flop_counter import FlopCounterMode

    side, channels = prior.unet.config.sample_size, prior.unet.config.in_channels
    with torch.no_grad():
        with FlopCounterMode(display=False) as unet:
            prior.predict_noise(torch.zeros(1, channels, side, side), torch.tensor([5]), prior.embed([""]))
        with FlopCounterMode(display=False) as vae:
            prior.encode(torch.zeros(1, 3, prior.resolution, prior.resolution))
    return {"unet_gflop": unet.get_total_flops() / 1e9, "vae_encode_gflop": vae.get_total_flops() / 1e9}
