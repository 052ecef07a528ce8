"""The study in 2D: its metrics have their closed forms, and its cells resume to the same bytes."""

from dataclasses import replace

import pytest
import torch

from prolific_core.experiments import study_2d as study
from prolific_core.metrics.diversity import pairwise_distance, saturation
from prolific_core.metrics.fidelity import kernel_distance
from prolific_core.prior.latent_diffusion import LatentDiffusion
from tests.support import tiny_pipeline

SETTINGS = study.Settings(particles=2, steps=6, sampler_steps=3)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return LatentDiffusion.load(str(tiny_pipeline.make(tmp_path_factory.mktemp("prior"), prediction="v_prediction")))


def method(name: str) -> study.Method:
    return next(one for one in study.METHODS if one.name == name)


def make(prior, name, folder, progress=lambda step, steps: None):
    folder.mkdir(exist_ok=True)
    return study.make(prior, method(name), "a red mug", SETTINGS, folder, progress)


def test_kernel_distance_is_its_formula():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=g).double(), torch.randn(4, 3, generator=g).double() + 1
    k = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within = [
        sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / len(x) / (len(x) - 1)
        for x in (a, b)
    ]
    across = sum(k(x, y) for x in a for y in b) / len(a) / len(b)
    assert abs(kernel_distance(a, b) - (sum(within) - 2 * across)) < 1e-9
    same = torch.randn(2000, 3, generator=g)
    assert abs(kernel_distance(same[:1000], same[1000:])) < 0.02 < kernel_distance(same[:1000], same[1000:] + 0.5)


def test_diversity_and_saturation():
    assert abs(pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) - 10 / 3) < 1e-9
    pure, grey, black = torch.tensor([1.0, 0.0, 0.0]), torch.full((3,), 0.4), torch.zeros(3)
    images = torch.stack([pure, grey, black, torch.tensor([0.8, 0.4, 0.4])])[:, :, None, None].expand(-1, -1, 4, 4)
    assert abs(saturation(images) - (1 + 0 + 0 + 0.5) / 4) < 1e-6


def test_ancestral_sampling_draws_noise_on_the_way(prior):
    def sample(eta):
        return prior.sample(["a red mug"], steps=4, eta=eta, generator=torch.Generator().manual_seed(3))

    assert torch.equal(sample(0.0), sample(0.0)) and torch.equal(sample(1.0), sample(1.0))
    assert (sample(0.0) - sample(1.0)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sds 100", "vsd 7.5", "vsd 7.5, n = 1"])
def test_an_interrupted_cell_ends_in_the_same_images(prior, name, tmp_path, monkeypatch):
    often = study.LoggingConfig(checkpoint_every=2)
    monkeypatch.setattr(study, "LoggingConfig", lambda: often)
    seen = []
    whole = make(prior, name, tmp_path / "whole", lambda step, steps: seen.append((step, steps)))
    steps = 12 if "n = 1" in name else 6  # the particles of one score network are trained together
    assert whole.shape == (2, 3, 32, 32) and seen[-1] == (steps, steps)

    def die(step, steps):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(prior, name, tmp_path / "killed", die)
    assert list((tmp_path / "killed").glob("state-*.safetensors"))
    resumed = []
    assert torch.equal(make(prior, name, tmp_path / "killed", lambda step, steps: resumed.append(step)), whole)
    assert resumed[0] == 5


def test_a_shared_score_model_is_not_one_each(prior, tmp_path):
    assert not torch.equal(make(prior, "vsd 7.5", tmp_path / "a"), make(prior, "vsd 7.5, n = 1", tmp_path / "b"))


@pytest.mark.parametrize("particles, batch, seen", [(4, 8, (4, 4)), (6, 4, (3, 3)), (3, 8, (3, 3)), (4, 1, (1, 1))])
def test_particles_are_trained_in_batches_of_one_size(prior, tmp_path, monkeypatch, particles, batch, seen):
    rows = []
    loss = study.base.Guidance.loss

    def watch(self, latents, views, *rest):
        rows.append((len(latents), len(views)))
        return loss(self, latents, views, *rest)

    monkeypatch.setattr(study.base.Guidance, "loss", watch)
    settings = replace(SETTINGS, particles=particles, batch=batch, steps=2)
    images = study.make(prior, method("sds 7.5"), "a red mug", settings, tmp_path, lambda step, steps: None)
    assert rows == [seen] * (2 * particles // seen[0]) and len(images) == particles
    assert len({image.sum().item() for image in images}) == particles


def test_pixels_go_through_the_encoder_and_latents_do_not(prior, tmp_path, monkeypatch):
    seen = []
    encode = type(prior).encode
    monkeypatch.setattr(type(prior), "encode", lambda self, images: seen.append(images.shape) or encode(self, images))
    latents = make(prior, "sds 7.5", tmp_path / "latents")
    assert not seen
    pixels = replace(SETTINGS, pixels=True)
    (tmp_path / "pixels").mkdir()
    images = study.make(prior, method("sds 7.5"), "a red mug", pixels, tmp_path / "pixels", lambda step, steps: None)
    assert seen == [(2, 3, 32, 32)] * 6 and images.shape == latents.shape
    assert images.min() > 0 and images.max() < 1 and images.grad_fn is None


def test_methods_that_save_evaluations_differ_in_that_option_only():
    shared, interval = (study.stage_config(one, SETTINGS, steps=6, batch=2).guidance for one in study.SAVINGS)
    plain = study.stage_config(method("vsd 7.5"), SETTINGS, steps=6, batch=2).guidance
    assert shared.score.share_pass and shared.interval is None and not plain.score.share_pass
    assert interval.interval == (0.15, 0.85) and interval.model_copy(update={"interval": None}) == plain


def test_a_row_compares_with_the_truth():
    g = torch.Generator().manual_seed(1)
    truth = {"a red mug": torch.rand(8, 3, 8, 8, generator=g), "a blue cube": torch.rand(8, 3, 8, 8, generator=g)}
    features = lambda images: images.flatten(1)[:, :16]  # noqa: E731
    agreement = lambda images, text: {"family_agreement": 1.0, "colour_agreement": 0.5 if "red" in text else 1.0}  # noqa: E731
    same = study.row("truth", truth, truth, 32.0, features, agreement)
    assert (
        same.images == 16 and same.saturation == 1 and same.diversity == 1 and same.seconds == 2 and same.colour == 0.75
    )
    assert same.frechet is None and same.alignment is None
    grey = {text: images[:4].mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.1 for text, images in truth.items()}
    worse = study.row("grey", grey, truth, 1.0, features, agreement)
    assert worse.kid > same.kid + 0.01 and worse.saturation < 0.01 and worse.diversity < 0.2


def test_table_and_figure():
    from flows.benchmarks.study import figure, table

    row = study.Row("vsd 7.5", 4, 0.0123, None, 0.3, 1.0, 1.0, 0.9, 0.8, 12.0)
    cells = [cell.strip() for cell in table([row]).splitlines()[2].split("|")[1:-1]]
    assert cells == ["vsd 7.5", "4", "0.0123", "", "0.3", "1", "1", "0.9", "0.8", "12"]
    images = {name: {"a red mug": torch.rand(6, 3, 64, 64)} for name in ("truth", "vsd 7.5")}
    sheet = figure(images, ["a red mug"])
    assert sheet.shape == (3, 22 + 128, 150 + 4 * 64)
    assert (sheet[:, 22:86, 150:214] - images["truth"]["a red mug"][0]).abs().max() < 0.01


def test_mistakes_are_named(clone):
    for arguments, message in (
        (["--prompt", "a red zebra"], "must name an object and a colour of the Toybox world"),
        (["--method", "magic"], "no method"),
        (["--particles", "1"], "diversity"),
    ):
        done = clone.prolific("study", "--quick", *arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
