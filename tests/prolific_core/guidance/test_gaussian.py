"""A Gaussian as the prior, where every score is known: VSD samples it, SDS finds its mode.

The guidance methods, schedules and losses are those of the package. The closed-form prior and the small score network
are those of `prolific bench theory`, whose table has a row for every method.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from prolific_core.config import GuidanceConfig, ScoreConfig, TimeConfig
from prolific_core.discovery import guidance_methods
from prolific_core.experiments import theory
from prolific_core.experiments.theory import GAUSSIAN, PARTICLES, PROMPT, TWO_MODES, LearnedScore, Mixture, Oracle
from prolific_core.guidance import sds, vsd
from prolific_core.guidance.score_network.model import ScoreModel
from prolific_core.seeding import generator

(MEAN,), (COVARIANCE,) = GAUSSIAN.means, GAUSSIAN.covariances


class Fitted(ScoreModel):
    """Score of the Gaussian that is fitted to the particles (biased covariance), with nothing to train."""

    def __init__(self, prior, particles):
        self.base, self.schedule, self.embed, self.particles = prior, prior.schedule, prior.embed, particles

    def __call__(self, noisy, t, text, c2w, has_camera=None):
        points = self.particles.detach()[:, :, 0, 0]
        fitted = Mixture(torch.ones(1), points.mean(0)[None], torch.cov(points.T, correction=0)[None])
        return fitted.eps(self.schedule, noisy, t)

    def noise_from(self, output, noisy, t):
        return output

    def trainable(self):
        return [nn.Parameter(torch.zeros(1))]


def start():
    """Return particles that are far from the target in mean and covariance."""
    return nn.Parameter(torch.randn(PARTICLES, 2, 1, 1, generator=generator(0, "particles")) * 1.3 - 1.0)


def optimise(guide, particles, steps, rates):
    points = theory.optimise(guide, particles, steps, rates)
    return points.mean(0), torch.cov(points.T, correction=0)


def settings(**values):
    return GuidanceConfig(scale=1.0, view_prompts=False, time=TimeConfig(anneal="none"), **values)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_vsd_with_the_fitted_gaussian_reaches_mean_and_covariance():
    prior, particles = Oracle(GAUSSIAN), start()
    guide = vsd.VSD(prior, settings(), PROMPT, generator=generator(0, "q"), score=Fitted(prior, particles))
    guide.train_score_network = lambda *arguments: {}
    mean, covariance = optimise(guide, particles, 800, (0.05, 1e-4))
    assert relative(mean, MEAN) < 0.02 and relative(covariance, COVARIANCE) < 0.02


def test_sds_collapses_onto_the_mode():
    particles = start()
    guide = sds.SDS(Oracle(GAUSSIAN), settings(method="sds"), PROMPT, generator=generator(0, "q"))
    mean, covariance = optimise(guide, particles, 3000, (0.05, 1e-5))
    assert relative(mean, MEAN) < 0.05
    assert covariance.trace() < 0.01 * COVARIANCE.trace()


@pytest.mark.parametrize("share", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_vsd_with_a_learned_score_reaches_them_nearly(share):
    prior, particles = Oracle(GAUSSIAN), start()
    score = ScoreConfig(learning_rate=3e-3, steps=2, betas=(0.9, 0.99), share_pass=share)
    guide = vsd.VSD(prior, settings(score=score), PROMPT, generator=generator(0, "q"), score=LearnedScore(prior, 0))
    mean, covariance = optimise(guide, particles, 1500, (0.02, 1e-4))
    assert relative(mean, MEAN) < 0.15 and relative(covariance, COVARIANCE) < 0.15


@pytest.mark.parametrize("mixture", [GAUSSIAN, TWO_MODES, theory.BROAD])
def test_the_closed_form_score_is_the_gradient_of_the_log_density(mixture):
    schedule = Oracle(mixture).schedule
    noisy = torch.randn(5, 2, 1, 1, generator=generator(0, "x"), dtype=torch.float64).requires_grad_()
    t = torch.tensor([20, 200, 400, 700, 950])
    alpha, sigma = (c[:, 0, 0].double() for c in schedule.coefficients(t))
    parts = []
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        for_row = [
            torch.distributions.MultivariateNormal(a * mean.double(), a**2 * covariance.double() + s**2 * torch.eye(2))
            for a, s in zip(alpha, sigma, strict=True)
        ]
        parts.append(
            torch.stack([d.log_prob(x) for d, x in zip(for_row, noisy[:, :, 0, 0], strict=True)]) + weight.log()
        )
    torch.stack(parts).logsumexp(0).sum().backward()
    expected = -sigma[:, :, None, None] * noisy.grad
    found = mixture.eps(schedule, noisy.detach().float(), t)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", guidance_methods())
def test_every_method_runs_on_the_closed_form_priors(method):
    row = theory.row(method, 7.5, steps=4)
    values = [getattr(row, name) for name in ("mean_error", "variance", "mode_error", "mode_variance", "evaluations")]
    assert torch.tensor(values).isfinite().all() and min(values) > 0 and 0 <= row.smaller_mode <= 1


def test_the_table_of_the_documentation_has_every_method():
    text = (Path(__file__).parents[3] / "docs" / "method.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.count("|") == 9}
    assert set(guidance_methods()) <= rows


def test_sds_loses_the_smaller_mode_and_vsd_keeps_both():
    collapsed, kept = (theory.row(method, 1.0, steps=400) for method in ("sds", "vsd"))
    assert collapsed.smaller_mode < 0.2 < kept.smaller_mode < 0.45
    assert collapsed.variance < 0.1 and 0.8 < kept.variance < 1.2
