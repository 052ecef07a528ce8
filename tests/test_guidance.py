"""The distillation gradient against its formula, on a tiny random pipeline."""

import pytest
import torch

import tiny_pipeline
from prolific_core import cameras
from prolific_core.config import CameraConfig, GuidanceConfig, ScoreConfig, TimeConfig
from prolific_core.guidance import distillation, schedules
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator

PROMPT = "a red mug"


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return str(tiny_pipeline.make(tmp_path_factory.mktemp("prior"), prediction=request.param))


@pytest.fixture
def prior(folder):
    return LatentDiffusion.load(folder)


def estimator(prior, **options):
    return distillation.make(prior, GuidanceConfig(**options), PROMPT, generator=generator(0, "score"))


def draws(prior, batch=2):
    g = generator(1, "draws")
    latents = torch.randn(batch, 4, 8, 8, generator=g)
    noise = torch.randn(latents.shape, generator=g)
    t = torch.tensor([100, 900, 20, 500])[:batch]
    return latents, noise, t, cameras.sample(batch, CameraConfig(), g)


def by_hand(prior, noisy, t, text):
    """eps written out from the scheduler's own numbers, one row at a time."""
    alpha_bar = prior.scheduler.alphas_cumprod.double()
    rows = []
    for x, step, embedding in zip(noisy, t, text, strict=True):
        out = prior.unet(x[None], step, encoder_hidden_states=embedding[None]).sample.double()
        if prior.scheduler.config.prediction_type == "v_prediction":
            out = alpha_bar[step].sqrt() * out + (1 - alpha_bar[step]).sqrt() * x[None].double()
        rows.append(out)
    return torch.cat(rows)


@torch.no_grad()
def formula(prior, guide, latents, noise, t, views, scale, own):
    alpha_bar = prior.scheduler.alphas_cumprod[t].double()[:, None, None, None]
    noisy = (alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise).float()
    texts = [f"{PROMPT}, {w}" for w in cameras.view_words(views)]
    conditional = by_hand(prior, noisy, t, prior.embed(texts))
    unconditional = by_hand(prior, noisy, t, prior.embed([""] * len(t)))
    return (1 - alpha_bar) * (unconditional + scale * (conditional - unconditional) - own(noisy))


@pytest.mark.parametrize("scale", [1.0, 7.5, 100.0])
def test_sds_gradient_is_its_formula(prior, scale):
    latents, noise, t, views = draws(prior, 4)
    guide = estimator(prior, method="sds", scale=scale)
    expected = formula(prior, guide, latents, noise, t, views, scale, lambda noisy: noise.double())
    torch.testing.assert_close(guide.gradient(latents, views, t, noise).double(), expected, rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_vsd_gradient_is_its_formula_after_training_its_score(prior, scale):
    latents, noise, t, views = draws(prior)
    guide = estimator(prior, method="vsd", scale=scale, score=ScoreConfig(learning_rate=1e-2, targets="all"))
    for k in range(5):
        guide.train_step(latents, views.c2w, generator(k, "train"))
    own = guide.particle_noise(guide.prior.schedule.add_noise(latents, noise, t), t, noise, views).double()
    expected = formula(prior, guide, latents, noise, t, views, scale, lambda noisy: own)
    torch.testing.assert_close(guide.gradient(latents, views, t, noise).double(), expected, rtol=1e-4, atol=1e-4)
    plain = by_hand(prior, guide.prior.schedule.add_noise(latents, noise, t), t, prior.embed([PROMPT] * 2))
    assert (own - plain).abs().max() > 1e-2  # the score did move away from the prior


def test_sds_is_vsd_with_the_noise_in_place_of_the_score(prior):
    latents, noise, t, views = draws(prior)
    vsd, sds = estimator(prior, method="vsd", scale=7.5), estimator(prior, method="sds", scale=7.5)
    vsd.particle_noise = lambda noisy, t, noise, cameras: noise
    assert torch.equal(vsd.gradient(latents, views, t, noise), sds.gradient(latents, views, t, noise))


def test_first_vsd_gradient_is_zero_without_guidance_and_view_words(prior):
    latents, noise, t, views = draws(prior)
    guide = estimator(prior, method="vsd", scale=1.0, view_words=False)
    assert guide.gradient(latents, views, t, noise).abs().max() < 1e-6
    # Not because the gradient is always zero.
    assert estimator(prior, method="sds", scale=1.0).gradient(latents, views, t, noise).abs().max() > 0.1


def test_the_prior_never_moves_and_the_score_model_does(prior):
    latents, noise, t, views = draws(prior)
    before = {name: p.clone() for name, p in prior.state_dict().items()}
    text = prior.embed([PROMPT] * 2)
    answer = prior.predict_noise(latents, t, text)
    guide = estimator(prior, method="vsd", score=ScoreConfig(learning_rate=1e-2, targets="all"))
    steps = [guide.train_step(latents, views.c2w, generator(7, "same"), measure=True) for _ in range(30)]
    assert steps[-1]["score_loss"] < 0.8 * steps[0]["score_loss"]
    assert steps[0]["score_gain"] == pytest.approx(1, abs=1e-5) and steps[-1]["score_gain"] < 0.8
    assert torch.equal(prior.predict_noise(latents, t, text), answer)
    after = {name.replace(".base_layer", ""): p for name, p in prior.state_dict().items() if "lora_" not in name}
    assert after.keys() == before.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_camera_reaches_the_score_once_trained(prior):
    latents, noise, t, views = draws(prior)
    guide = estimator(prior, method="vsd", score=ScoreConfig(learning_rate=1e-2, camera_dropout=0.0))
    turned = cameras.orbit(2, elevation=-20, distance=1.0, fov=50)
    assert torch.equal(guide.particle_noise(latents, t, noise, views), guide.particle_noise(latents, t, noise, turned))
    for k in range(5):
        guide.train_step(latents, views.c2w, generator(k, "train"))
    assert not torch.equal(guide.particle_noise(latents, t, noise, views), guide.particle_noise(latents, t, noise, turned))


def test_loss_has_the_estimators_gradient(prior):
    latents, _, _, views = draws(prior)
    guide = estimator(prior, method="sds", time=TimeConfig(anneal="none"))
    latents.requires_grad_(True)
    guide.loss(latents, views, 0.0, generator(3, "loss")).backward()
    g = generator(3, "loss")
    t = schedules.sample_times(2, guide.config.time, 0.0, 1000, g)
    noise = torch.randn(latents.shape, generator=g)
    torch.testing.assert_close(latents.grad, guide.gradient(latents, views, t, noise) / 2)


def test_time_schedules():
    step, sqrt = TimeConfig(anneal="step", at=0.2, final=0.5), TimeConfig(anneal="sqrt", final=0.3)
    assert [schedules.upper_bound(step, p) for p in (0, 0.19, 0.2, 1)] == [0.98, 0.98, 0.5, 0.5]
    assert schedules.upper_bound(sqrt, 0.25) == pytest.approx(0.64) and schedules.upper_bound(sqrt, 1) == pytest.approx(0.3)
    t = schedules.sample_times(10_000, step, 0.5, 1000, generator(0, "t"))
    assert t.min() >= 20 and t.max() < 500 and abs(t.float().mean() - 260) < 5


def test_state_resumes_to_the_same_bytes(folder):
    def run(steps, state=None, start=0):
        guide = estimator(LatentDiffusion.load(folder), method="vsd", score=ScoreConfig(learning_rate=1e-2))
        latents, _, _, views = draws(guide.prior)
        if state:
            guide.load_state_dict(state)
        for k in range(start, steps):
            guide.train_step(latents, views.c2w, generator(k, "train"))
        return guide.state_dict()

    import copy

    whole, half = run(6), copy.deepcopy(run(3))
    resumed = run(6, half, 3)
    assert all(torch.equal(whole["score"][name], resumed["score"][name]) for name in whole["score"])


def test_a_template_replaces_only_the_prompt(prior):
    assert estimator(prior, method="sds", prompt="a {colour} {prompt} {").prompt == "a {colour} a red mug {"
