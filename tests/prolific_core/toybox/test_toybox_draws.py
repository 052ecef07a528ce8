"""Draws that the U-Net of the Toybox is trained on: their views, the details named in captions, and their times."""

import numpy as np
import pytest

from prolific_core.files import write_json
from prolific_core.toybox.files import save_array
from prolific_core.toybox.params import DiffusionConfig
from prolific_core.toybox.training import text
from prolific_core.toybox.training.diffusion import Latents, towards_noise, use_float32_group_norms
from prolific_core.toybox.world import captions
from prolific_core.toybox.world import draw as world
from prolific_core.view_names import VIEWS, view_of

KINDS = ("colour", "normals", "pair", "room")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Write 600 labels without images; the latents of a row are its number."""
    folder, g = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    labels = []
    for _ in range(600):
        azimuth, family = g.uniform(-np.pi, np.pi), str(g.choice(list(world.FAMILIES)))
        view = view_of(azimuth, 0.3)
        labels.append(
            {
                "kind": str(g.choice(KINDS)),
                "family": family,
                "view": view,
                "azimuth": azimuth,
                "elevation": 0.3,
                "trait": "",
                "background": "gray",
                "caption": captions.with_view(f"a red {family}", view if g.random() < 0.5 else None),
            }
        )
    save_array(folder / "train-0000.npy", np.zeros((600, 1, 1, 3), np.uint8))
    write_json(folder / "train-0000.json", labels)
    latents = np.arange(600, dtype=np.float32)[:, None, None, None].repeat(2, 1)
    (folder / "latents").mkdir()
    save_array(folder / "latents" / "train-0000.npy", latents)
    return folder, labels


def draw(shards, batches=200, **config):
    """Return the rows of many batches of ten, and their captions."""
    folder, labels = shards
    tok = text.tokenizer()
    data = Latents(folder, folder / "latents", tok, DiffusionConfig(**config))
    rows, texts = [], []
    for k in range(batches):
        z, ids = data.batch(np.random.default_rng(k), 10)
        rows += z[:, 0, 0, 0].int().tolist()
        texts += [tok.decode(tokens, skip_special_tokens=True).strip() for tokens in ids]
    return rows, texts, labels


def faced(label) -> bool:
    return label["family"] in world.WITH_FRONT and label["kind"] in ("colour", "normals")


def test_a_fraction_of_a_batch_is_fronts_and_backs(shards):
    rows, _, labels = draw(shards, fronts=0.4)
    ends = [
        faced(labels[row]) and labels[row]["kind"] == "colour" and labels[row]["view"] in ("front", "back")
        for row in rows
    ]
    assert all(np.array(ends).reshape(-1, 10)[:, :4].all(1)) and 0.4 < np.mean(ends) < 0.6
    even, _, _ = draw(shards, fronts=0.0, pairs=0.0)
    assert len(set(even)) > 550


def test_a_fraction_of_a_batch_shows_two_objects(shards):
    rows, _, labels = draw(shards, fronts=0.2, pairs=0.3)
    pairs = np.array([labels[row]["kind"] == "pair" for row in rows]).reshape(-1, 10)
    assert pairs[:, 2:5].all() and not pairs[:, :2].any() and 0.3 < pairs.mean() < 0.5


def test_group_norms_in_bfloat16_compute_in_float32():
    import torch

    torch.manual_seed(0)
    x = (torch.randn(4, 32, 8, 8) + 3).bfloat16()
    model = torch.nn.Sequential(torch.nn.GroupNorm(8, 32), torch.nn.SiLU())
    torch.nn.init.normal_(model[0].weight)
    expected = torch.nn.functional.group_norm(x.float(), 8, model[0].weight, eps=model[0].eps)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    use_float32_group_norms(model)
    with torch.autocast("cpu", torch.bfloat16):
        y = model[0](x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_captions_name_views_details_or_nothing(shards):
    rows, texts, labels = draw(shards, fronts=0.3, named_views=0.9, details=0.2, drop_caption=0.1)
    assert abs(np.mean([text == "" for text in texts]) - 0.1) < 0.03
    told = [
        (labels[row], text) for row, text in zip(rows, texts, strict=True) if text and labels[row]["kind"] != "room"
    ]
    has = np.array([faced(label) for label, _ in told])
    named = np.array([" view" in text for _, text in told])
    assert abs(named[has].mean() - 0.9) < 0.04 and abs(named[~has].mean() - 0.5) < 0.07
    assert abs(np.mean(["medium angle" in text for _, text in told]) - 0.2) < 0.04
    assert all(label["family"] in text for label, text in told)


def test_times_lean_towards_noise():
    u = (np.arange(10_000) + 0.5) / 10_000
    assert np.allclose(towards_noise(u, 1.0), u)
    shifted = towards_noise(u, 3.0)
    assert shifted.min() >= 0 and shifted.max() < 1 and abs(np.median(shifted) - 0.75) < 1e-3


def test_every_row_of_a_batch_sees_every_noise_level(shards, monkeypatch, tmp_path):
    """Fronts are the first rows of a batch: with sorted times they would only be seen at low noise."""
    import torch

    from prolific_core.toybox.params import AutoencoderConfig, TextConfig
    from prolific_core.toybox.training import autoencoder, diffusion, text_encoder

    folder, _ = shards
    seen: list[torch.Tensor] = []
    original = diffusion.build_unet

    def build(*arguments):
        unet = original(*arguments)
        unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]) if module.training else None)
        return unet

    monkeypatch.setattr(diffusion, "build_unet", build)
    latents = tmp_path / "latents"
    latents.mkdir()
    save_array(latents / "train-0000.npy", np.zeros((600, 6, 16, 16), np.float16))
    config = DiffusionConfig(channels=[16, 16, 16], steps=60, decay=10, batch=8, warmup=2)
    encoder = text_encoder.build(TextConfig(width=16, layers=1), text.tokenizer())
    vae = autoencoder.build(AutoencoderConfig().latent, autoencoder.CHANNELS)
    diffusion.train(folder, latents, vae, encoder, config, tmp_path / "state.safetensors")
    times = torch.stack(seen).float() / 1000
    assert (times.mean(0) - 0.5).abs().max() < 0.2  # in every row
    assert torch.allclose(times.sort(1).values.diff(dim=1), torch.tensor(1 / 8), atol=2e-3)  # stratified


def test_a_view_can_be_taken_from_a_caption():
    for view in VIEWS:
        assert captions.without_view(captions.with_view("a red mug", view)) == "a red mug"
    assert captions.without_view("a front view") == "a front view"
