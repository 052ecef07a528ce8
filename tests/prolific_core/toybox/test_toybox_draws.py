"""Draws that the U-Net of the Toybox is trained on: their views, the views named in captions, and their times."""

import numpy as np
import pytest

from prolific_core.files import write_json
from prolific_core.toybox.files import save_array
from prolific_core.toybox.params import DiffusionConfig
from prolific_core.toybox.training import text
from prolific_core.toybox.training.diffusion import Latents, towards_noise
from prolific_core.toybox.world import captions
from prolific_core.toybox.world import draw as world

KINDS = ("colour", "normals", "pair", "room")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Write 600 labels without images; the latents of a row are its number."""
    folder, g = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    labels = []
    for _ in range(600):
        view, family = str(g.choice(captions.VIEWS)), str(g.choice(list(world.FAMILIES)))
        named = view if g.random() < 0.5 else None
        labels.append(
            {
                "kind": str(g.choice(KINDS)),
                "family": family,
                "view": view,
                "caption": captions.with_view(f"a red {family}", named),
            }
        )
    save_array(folder / "train-0000.npy", np.zeros((600, 1, 1, 3), np.uint8))
    write_json(folder / "train-0000.json", labels)
    latents = np.arange(600, dtype=np.float32)[:, None, None, None].repeat(2, 1)
    (folder / "latents").mkdir()
    save_array(folder / "latents" / "train-0000.npy", latents)
    return folder, labels


def draw(shards, batches=200, **config):
    """Return the rows of many batches of ten, and whether their captions name the view."""
    folder, labels = shards
    tok = text.tokenizer()
    data = Latents(folder, folder / "latents", tok, DiffusionConfig(**config))
    rows, named = [], []
    for k in range(batches):
        z, ids = data.batch(np.random.default_rng(k), 10)
        for row, tokens in zip(z[:, 0, 0, 0].int().tolist(), ids.tolist(), strict=True):
            words = [word for word in tok.decode(tokens, skip_special_tokens=True).split() if word in captions.VIEWS]
            assert words in ([], [labels[row]["view"]])
            rows.append(row)
            named.append(bool(words))
    return rows, np.array(named), labels


def faced(label) -> bool:
    return label["family"] in world.WITH_FRONT and label["kind"] in ("colour", "normals")


def test_a_fraction_of_a_batch_is_fronts_and_backs(shards):
    rows, _, labels = draw(shards, fronts=0.4)
    ends = [
        faced(labels[row]) and labels[row]["kind"] == "colour" and labels[row]["view"] in ("front", "back")
        for row in rows
    ]
    assert all(np.array(ends).reshape(-1, 10)[:, :4].all(1)) and 0.4 < np.mean(ends) < 0.6
    even, _, _ = draw(shards, fronts=0.0)
    assert len(set(even)) > 550


def test_the_views_of_what_has_a_front_are_named(shards):
    rows, named, labels = draw(shards, fronts=0.3, named_views=0.9)
    has = np.array([faced(labels[row]) for row in rows])
    assert abs(named[has].mean() - 0.9) < 0.04 and abs(named[~has].mean() - 0.5) < 0.05


def test_times_lean_towards_noise():
    u = (np.arange(10_000) + 0.5) / 10_000
    assert np.allclose(towards_noise(u, 1.0), u)
    shifted = towards_noise(u, 3.0)
    assert shifted.min() >= 0 and shifted.max() < 1 and abs(np.median(shifted) - 0.75) < 1e-3


def test_a_view_can_be_taken_from_a_caption():
    for view in captions.VIEWS:
        assert captions.without_view(captions.with_view("a red mug", view)) == "a red mug"
    assert captions.without_view("a front view") == "a front view"
