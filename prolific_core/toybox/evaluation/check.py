"""Evaluation of a prior of the Toybox world by comparing its samples with true renders.

A classifier agreement is the classifier's accuracy on samples divided by its accuracy on true renders of the same
captions, so that errors of the classifier itself do not count against the prior. The classifier is trained on true
renders only, and no model is trained on its predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from prolific_core.toybox.evaluation import two_sample
from prolific_core.toybox.evaluation.answers import right_answers, right_relations
from prolific_core.toybox.evaluation.classifier import Classifier, load_classifier
from prolific_core.toybox.evaluation.distances import frechet_ratio, nearest_neighbour_ratio, sharpness_ratio
from prolific_core.toybox.evaluation.groups import GROUPS, Group, as_tensor, group, redraw
from prolific_core.toybox.params import HELD_OUT_SEED, WEIGHTS, RenderConfig
from prolific_core.toybox.training.scorer import retrieval
from prolific_core.toybox.training.shards import heldout_images
from prolific_core.toybox.world import draw as world

#: Smallest and largest value that each metric should have; docs/prior.md compares them with what was reached.
GOALS: dict[str, tuple[float | None, float | None]] = {
    "psnr_db": (34, None),
    "family_agreement": (0.98, None),
    "colour_agreement": (0.99, None),
    "view_agreement": (0.95, None),
    "side_agreement": (0.95, None),
    "relation_agreement": (0.8, None),
    "normals_family_agreement": (0.97, None),
    "heldout_gap": (None, 0.03),
    "nearest_neighbour_ratio": (0.8, None),
    "frechet_ratio": (None, 0.05),
    "frechet_ratio_cfg1": (None, 0.08),
    "two_sample_accuracy": (None, 0.75),
    "two_sample_accuracy_of_truth": (0.45, 0.55),
    "sharpness_ratio": (0.9, 1.1),
    "scorer_retrieval": (0.98, None),
    "unet_gflop": (None, 0.6),
    "vae_encode_gflop": (None, 0.3),
    "size_mb": (None, 32),
}

REFERENCES = 16384  # Number of training renders that samples are compared with to detect copies.


class _Progress:
    """Progress in units of about a sample of guided sampling."""

    def __init__(self, total: float, report: Callable[[int, int], None]):
        self.done, self.total, self.report = 0.0, total, report

    def add(self, work: float) -> None:
        self.done += work
        self.report(min(round(self.done), round(self.total)), round(self.total))


def training_renders(
    count: int, data: RenderConfig, progress: Callable[[int], None]
) -> Float[Tensor, "{count} 3 64 64"]:
    """Render the first images of the training set again.

    Args:
        count: Number of images.
        data: Parameters of the data set.
        progress: Callback that receives the number of images that were rendered since its last call.

    Returns:
        Images in [0, 1].
    """
    found = []
    for start in range(0, count, 512):
        rows = range(start, min(start + 512, count))
        found.append(as_tensor([world.draw(data.seed, k, data) for k in rows]))
        progress(len(rows))
    return torch.cat(found)


def renders_of(folder: Path) -> RenderConfig:
    """Load the parameters of the renders on which a model was trained.

    Args:
        folder: Model folder, which contains them in render.json. Models without this file were trained on renders with
        the
            default parameters.

    Returns:
        The parameters.
    """
    path = folder / "render.json"
    return RenderConfig.model_validate_json(path.read_text()) if path.is_file() else RenderConfig()


def sample(
    prior: LatentDiffusion, groups: dict[str, Group], cfg: float, steps: int, progress: Callable[[int], None]
) -> dict[str, Float[Tensor, "images 3 64 64"]]:
    """Sample one image for each caption.

    Args:
        prior: Prior to sample from.
        groups: Captions by the name of their group.
        cfg: Scale of classifier-free guidance.
        steps: Number of DDIM steps.
        progress: Callback that receives the number of images that were sampled since its last call.

    Returns:
        Images in [0, 1] by the name of the group.
    """
    made = {}
    for name, g in groups.items():
        parts = []
        for k in range(0, len(g.captions), 25):
            some, random = g.captions[k : k + 25], generator(1, "check", name, k)
            parts.append(prior.sample(some, scale=cfg, steps=steps, generator=random))
            progress(len(some))
        made[name] = torch.cat(parts)
    return made


def measure(
    folder: Path = WEIGHTS,
    count: int = 1000,
    cfg: float = 3.0,
    steps: int = 20,
    references: int = REFERENCES,
    seeds: int = two_sample.SEEDS,
    classifier: Path | None = None,
    sides: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    show: Callable[[Float[Tensor, "images 3 height width"]], None] = lambda images: None,
) -> dict:
    """Compute all metrics of the model card.

    Args:
        folder: Model folder.
        count: Number of samples; the model card uses 1,000.
        cfg: Scale of classifier-free guidance.
        steps: Number of DDIM steps.
        references: Number of training renders for the nearest-neighbour ratio.
        seeds: Number of repetitions of the two-sample test.
        classifier: Folder of the classifier; by default, that of the packaged model, so that all priors are compared by
            the same classifier.
        sides: Whether the captions tell the left side from the right one. Priors that were not trained on such captions
            are misled by them.
        progress: Callback that receives the finished work and the total work.
        show: Callback that receives the images of `grid`.

    Returns:
        Metrics by name, starting with those of `GOALS` in the same order.
    """
    data, prior, judge = renders_of(folder), LatentDiffusion.load(str(folder)), load_classifier(classifier)
    regressions = two_sample.FOLDS * (seeds + 2)
    advance = _Progress(1.5 * count + references / 50 + regressions * count / 500, progress)
    groups = {name: group(name, round(count * fraction), data, sides=sides) for name, (*_, fraction) in GROUPS.items()}
    labels = [label for g in groups.values() for label in g.labels]
    truth = torch.cat([g.truth for g in groups.values()])
    guided = sample(prior, groups, cfg, steps, advance.add)
    samples = torch.cat(list(guided.values()))
    show(grid(samples, truth, labels))
    plain = torch.cat(list(sample(prior, groups, 1.0, steps, lambda made: advance.add(made / 2)).values()))
    coded = recode(prior, truth)
    others = [group(name, len(g.labels), data, HELD_OUT_SEED + 6) for name, g in groups.items()]
    unseen, unseen_labels = torch.cat([g.truth for g in others]), [label for g in others for label in g.labels]
    out = dict.fromkeys(GOALS, float("nan")) | _agreements(judge, groups, guided)
    out["psnr_db"] = float(-10 * torch.log10((coded - truth).square().mean()))
    out["frechet_ratio_of_truth"] = frechet_ratio(judge, unseen, truth, labels, unseen_labels)
    out["frechet_ratio_of_same_captions"] = _own_distance(judge, groups, data, sides)
    for name, images in (("", samples), ("_cfg1", plain), ("_of_autoencoder", coded)):
        out[f"frechet_ratio{name}"] = frechet_ratio(judge, images, truth, labels)
        out[f"sharpness_ratio{name}"] = sharpness_ratio(images, truth)
        out[f"sharpness_ratio_p98{name}"] = sharpness_ratio(images, truth, 0.98)
    seen = training_renders(references, data, lambda rendered: advance.add(rendered / 50))
    out["nearest_neighbour_ratio"] = nearest_neighbour_ratio(samples, truth, seen)
    for name, made, true, repetitions in (
        ("", samples, coded, seeds),
        ("_raw", samples, truth, 1),
        ("_of_truth", recode(prior, unseen), coded, 1),
    ):
        tell = two_sample.accuracy(judge, made, true, repetitions, lambda: advance.add(count / 500))
        out[f"two_sample_accuracy{name}"] = tell
    out |= _scorer(folder) | _costs(prior)
    out["size_mb"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    return out | {"samples": len(samples), "cfg": cfg, "steps": steps}


def _own_distance(judge: Classifier, groups: dict[str, Group], data: RenderConfig, sides: bool) -> float:
    """Return the `frechet_ratio` that true renders have to other true renders of the same captions, without pairs."""
    singles = [g for name, g in groups.items() if name != "pairs"]
    truth, labels = torch.cat([g.truth for g in singles]), [label for g in singles for label in g.labels]
    again = torch.cat([redraw(g, data, sides=sides).truth for g in singles])
    return frechet_ratio(judge, again, truth, labels)


def recode(prior: LatentDiffusion, images: Float[Tensor, "images 3 64 64"]) -> Float[Tensor, "images 3 64 64"]:
    """Pass images through the prior's autoencoder.

    Args:
        prior: Prior whose autoencoder is used.
        images: Images in [0, 1].

    Returns:
        The reconstructions, in [0, 1].
    """
    return torch.cat([prior.decode(prior.encode(part)) for part in images.split(64)])


def grid(
    samples: Float[Tensor, "images 3 64 64"],
    truth: Float[Tensor, "images 3 64 64"],
    labels: list[dict],
    columns: int = 8,
) -> Float[Tensor, "cells 3 64 64"]:
    """Select samples of every family, each row followed by the true renders of the same captions.

    Args:
        samples: Samples in [0, 1].
        truth: True renders of the same captions.
        labels: Labels of the renders.
        columns: Number of images per row. Families with fewer samples leave grey cells.

    Returns:
        For each family, `columns` samples and `columns` renders.
    """
    cells = []
    for family in world.FAMILIES:
        rows = [k for k, label in enumerate(labels) if label["family"] == family and label["kind"] == "colour"]
        for images in (samples, truth):
            row = torch.full((columns, *images.shape[1:]), 0.5)
            row[: len(rows[:columns])] = images[rows[:columns]]
            cells.append(row)
    return torch.cat(cells)


def _agreements(classifier: Classifier, groups: dict[str, Group], made: dict[str, Tensor]) -> dict:
    """Return the classifier agreements.

    The key "accuracies" holds the accuracies from which the agreements are computed.
    """

    def accuracies(*names: str) -> dict:
        """Return the accuracies on the images of some groups together."""
        right = right_relations if names == ("pairs",) else right_answers
        labels = [label for name in names for label in groups[name].labels]
        return {
            "truth": right(classifier, torch.cat([groups[name].truth for name in names]), labels),
            "samples": right(classifier, torch.cat([made[name] for name in names]), labels),
            "count": len(labels),
        }

    of, out = {name: accuracies(name) for name in groups}, {}
    of["single"] = accuracies("trained", "heldout")

    def agreement(head: str, name: str) -> float:
        return float(of[name]["samples"][head] / max(of[name]["truth"][head], 1e-9))

    for head in ("family", "colour", "view", "side"):
        out[f"{head}_agreement"] = agreement(head, "single")
        out[f"heldout_{head}_agreement"] = agreement(head, "heldout")
        out[f"trained_{head}_agreement"] = agreement(head, "trained")
    out["relation_agreement"] = agreement("relation", "pairs")
    out["pair_families_agreement"] = agreement("families", "pairs")
    out["pair_colours_agreement"] = agreement("colours", "pairs")
    out["normals_family_agreement"] = agreement("family", "normals")
    out["heldout_gap"] = max(
        out[f"trained_{head}_agreement"] - out[f"heldout_{head}_agreement"] for head in ("family", "colour")
    )
    return out | {"accuracies": {name: of[name] for name in groups}}


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
