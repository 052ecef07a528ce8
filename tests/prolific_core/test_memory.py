"""The memory estimate is exact where it claims to be and near what autograd keeps; score_gain is monitored."""

import pytest
import torch

from prolific_core import memory
from prolific_core.config import FieldConfig, NerfConfig, ScoreConfig
from prolific_core.guidance.score_network.gain import ScoreGainMonitor
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.scenes.image import ImageScene
from prolific_core.seeding import generator
from tests.support import tiny_pipeline
from tests.support.by_formula import draws, estimator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_pipeline.make(tmp_path_factory.mktemp("prior")))


def estimate(guide, views=1):
    particles = [ImageScene(32, generator=generator(0, k)) for k in range(3)]
    return memory.estimate(guide, particles, views=views, side=32, pixel_bytes=10.0)


def test_weights_and_trained_bytes_are_exact(folder):
    prior = LatentDiffusion.load(folder)
    stored = sum(t.numel() * t.element_size() for t in (*prior.parameters(), *prior.buffers()))
    images = 3 * 3 * 32 * 32
    sds = estimate(estimator(prior, method="sds"))
    assert (sds["weights"], sds["trained"], sds["merged"]) == (stored, 4 * 4 * images, 0)

    guide = estimator(prior, score=ScoreConfig(rank=2, targets=["to_q"]))
    # Every to_q of this model is 32 x 32, eight of them; the camera's network is 16 -> 128 -> 128.
    adapters, camera = 8 * 2 * (2 * 32), 17 * 128 + 129 * 128
    vsd = estimate(guide)
    assert vsd["weights"] == stored and vsd["trained"] == 4 * 4 * (images + adapters + camera)
    assert vsd["merged"] == 4 * (8 + 1) * 32 * 32

    half = LatentDiffusion.load(folder, dtype="bfloat16")
    amounts = estimate(estimator(half, score=ScoreConfig(rank=2, targets=["to_q"])))
    # The factors are kept in bfloat16 too, each of them with 2 x 32 values.
    assert amounts["trained"] == vsd["trained"] and amounts["merged"] == 2 * (adapters + 2 * 32)
    assert amounts["weights"] == pytest.approx(stored / 2, rel=0.01)  # the schedule stays in float32


def test_another_base_is_counted_too(folder, tmp_path):
    other = str(tiny_pipeline.make(tmp_path, prediction="v_prediction", seed=1))
    plain, based = (
        estimate(estimator(LatentDiffusion.load(folder), score=ScoreConfig(base=base))) for base in (None, other)
    )
    unet = LatentDiffusion.load(other)
    kept = sum(t.numel() * t.element_size() for part in (unet.unet, unet.schedule) for t in part.state_dict().values())
    assert based["weights"] == plain["weights"] + kept  # the base has lost its autoencoder and text encoder


def saved(work) -> int:
    """Return the bytes of the activations of `work` that autograd keeps, without parameters and inputs."""
    storages = {}

    def pack(tensor):
        if not tensor.is_leaf:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keep = work()  # keeps the tensors alive, so that no address is used twice
    del keep
    return sum(storages.values())


def test_what_a_pass_keeps_is_near_what_autograd_keeps(folder):
    prior = LatentDiffusion.load(folder)
    guide = estimator(prior, score=ScoreConfig(targets="all"))
    latents, _, t, views = draws(4, torch.float32)
    text = prior.embed([""] * 4)
    real = saved(lambda: guide.score(latents, t, text, views.c2w))
    named = {"encoder_hidden_states": text}
    counted = memory.activation_bytes(guide.score.unet, latents, t, **named)
    assert 0.6 * real < counted < 1.5 * real
    assert memory.activation_bytes(
        guide.score.unet, latents[:1], t[:1], encoder_hidden_states=text[:1]
    ) == pytest.approx(counted / 4, rel=0.1)
    saving = LatentDiffusion.load(folder, gradient_checkpointing=True)
    assert memory.activation_bytes(saving.unet, latents, t, **named) < 0.7 * counted
    # Counting changes neither hooks nor weights of the model.
    assert saved(lambda: guide.score(latents, t, text, views.c2w)) == real


def test_a_fields_render_grows_with_samples_and_size():
    field = FieldConfig(levels=2, features=2, hidden_width=8, samples_per_ray=100, bound=1.0, density_radius=0.5)
    assert memory.point_bytes(field) == 4 * (4 + 16 + 16)
    assert memory.field_pixel_bytes(field) == pytest.approx(144 * 100 * (2 / 3) / (2 * 3**0.5))
    pixels = 2 * 512**2
    patched = NerfConfig(views=2, resolution=[(0.0, 64), (0.5, 512)], patch=pixels // 4)
    whole, part = memory.field_pixel_bytes(field, NerfConfig(patch=None)), memory.field_pixel_bytes(field, patched)
    assert whole == memory.field_pixel_bytes(field)
    assert part == pytest.approx(whole / 4 + memory.SAMPLE_BYTES * 100 * (2 / 3) / (2 * 3**0.5))
    assert memory.format_total({"a": 9_000_000_000, "b": 140_000_000}) == "9.1 GB"


def test_a_score_that_does_not_follow_gives_one_warning():
    def run(gain, steps=200):
        watch = ScoreGainMonitor(steps)
        said = {}
        for step in range(1, steps + 1):
            metrics = {"score_gain": gain(step)} if step == 1 or step % 10 == 0 else {}
            if line := watch.see(step, metrics):
                said[step] = line
        return said

    assert run(lambda step: 0.95) == {}
    assert list(run(lambda step: 0.99)) == [100]
    assert "score_gain is 0.99 after 100 of 200 steps but should be below 0.98" in run(lambda step: 0.99)[100]
    assert list(run(lambda step: 0.99, steps=100)) == [90]  # a short run has enough values later
    assert run(lambda step: 0.99, steps=50) == {}
    assert run(lambda step: 1.0 if step < 50 else 0.8) == {}  # a mean, not a moment
    assert list(run(lambda step: 0.95 if step < 20 else 1.01)) == [100]
    assert run(lambda step: 0.5 if step <= 100 else 1.2) == {}  # only the first half counts
    # The texture stage of "a red mug" with the demo preset, whose network adapts: a mean of .98 here is chance.
    mug = [1.0, 0.868, 1.068, 1.059, 0.995, 0.97, 0.888, 1.015, 0.893, 1.024, 1.037]
    assert run(lambda step: mug[step // 10], steps=100) == {}
    assert ScoreGainMonitor(10).see(9, {}) is None  # methods without a score
