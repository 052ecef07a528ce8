"""The distillation gradient against its formula, in float64, on tiny random pipelines."""

import pytest
import torch

from prolific_core.config import ScoreConfig, TimeConfig
from prolific_core.guidance import timesteps
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from tests.support import by_formula, tiny_pipeline
from tests.support.by_formula import PROMPT, draws, estimator

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return tiny_pipeline.make(tmp_path_factory.mktemp("prior"), prediction=request.param)


@pytest.fixture(scope="module")
def prior(folder):
    return by_formula.load(folder)


@pytest.fixture(scope="module", params=[True, False], ids=["camera", "no camera"])
def trained(request, prior):
    """A VSD estimator with a trained score network, with and without camera."""
    dropout = 0.1 if request.param else 1.0
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, targets="all", camera_dropout=dropout))
    latents, _, _, views = draws(4)
    for k in range(5):
        guide.train_step(latents, views.c2w.double(), generator(k, "train"))
    assert guide.score.camera.last.weight.any() == request.param
    return guide


def at_scale(guide, scale):
    guide.config = guide.config.model_copy(update={"scale": scale})
    return guide


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 7.5, 100.0])
def test_vsd_gradient_is_its_formula(prior, trained, scale, batch):
    latents, noise, t, views = draws(batch)
    noisy = by_formula.noised(prior, latents, noise, t)
    own = by_formula.score(prior, trained.score.trainable_state(), noisy, t, views)
    w = 1 - by_formula.alpha_bar(prior, t)
    expected = w * (by_formula.guided(prior, noisy, t, views, scale) - own)
    torch.testing.assert_close(at_scale(trained, scale).gradient(latents, views, t, noise), expected, **EXACT)
    assert (
        own - by_formula.eps(prior, noisy, t, prior.embed([PROMPT] * batch))
    ).abs().max() > 1e-2  # q has been trained


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 7.5, 100.0])
def test_sds_gradient_is_its_formula(prior, scale, batch):
    latents, noise, t, views = draws(batch)
    noisy = by_formula.noised(prior, latents, noise, t)
    expected = (1 - by_formula.alpha_bar(prior, t)) * (by_formula.guided(prior, noisy, t, views, scale) - noise)
    got = estimator(prior, method="sds", scale=scale).gradient(latents, views, t, noise)
    torch.testing.assert_close(got, expected, **EXACT)


def test_sds_is_vsd_with_the_noise_in_place_of_the_score(prior):
    latents, noise, t, views = draws()
    vsd, sds = estimator(prior, method="vsd", scale=7.5), estimator(prior, method="sds", scale=7.5)
    vsd.predict_eps_q = lambda noisy, t, noise, cameras: noise
    assert torch.equal(vsd.gradient(latents, views, t, noise), sds.gradient(latents, views, t, noise))


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_first_vsd_gradient_is_exactly_zero_without_guidance_and_view_prompts(folder, targets):
    prior = LatentDiffusion.load(str(folder))
    latents, noise, t, views = draws(4, torch.float32)
    guide = estimator(prior, scale=1.0, view_prompts=False, score=ScoreConfig(targets=targets))
    assert not guide.gradient(latents, views, t, noise).any()
    # Not because the gradient is always zero.
    assert estimator(prior, method="sds", scale=1.0).gradient(latents, views, t, noise).abs().max() > 0.1


@pytest.mark.parametrize("share", [False, True])
def test_the_prior_and_its_predictions_never_change(folder, share):
    prior = LatentDiffusion.load(str(folder))
    latents, noise, t, views = draws(2, torch.float32)
    before = {name: p.clone() for name, p in prior.state_dict().items()}
    text = prior.embed([PROMPT] * 2)
    answer = prior.predict_noise(latents, t, text)
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, targets="all", share_pass=share))
    for k in range(5):
        guide.loss(latents, views, 0.0, generator(k, "loss"))
        guide.train_score_network(latents, views, lambda purpose, k=k: generator(k, purpose))
        assert torch.equal(prior.predict_noise(latents, t, text), answer)
        assert torch.equal(guide.score.base.predict_noise(latents, t, text), answer)
    after = prior.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert (guide.predict_eps_q(latents, t, noise, views) - answer).abs().max() > 1e-2


def test_loss_has_the_estimators_gradient(prior):
    latents, _, _, views = draws()
    guide = estimator(prior, method="sds", time=TimeConfig(anneal="none"))
    latents.requires_grad_(True)
    guide.loss(latents, views, 0.0, generator(3, "loss")).backward()
    g = generator(3, "loss")
    t = timesteps.sample_times(2, guide.config.time, 0.0, 1000, g)
    noise = torch.randn(latents.shape, generator=g).double()
    torch.testing.assert_close(latents.grad, guide.gradient(latents, views, t, noise) / 2)


def test_a_template_replaces_only_the_prompt(prior):
    assert estimator(prior, method="sds", prompt="a {colour} {prompt} {").prompt == "a {colour} a red mug {"
