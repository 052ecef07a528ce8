"""A Gaussian as the prior, where every score is known: VSD samples it, SDS finds its mode.

The prior's latents are points of two dimensions, (B, 2, 1, 1). With x_0 ~ N(m, S) and
x_t = alpha x_0 + sigma eps, x_t ~ N(alpha m, alpha^2 S + sigma^2 I) and
eps(x_t) = sigma (alpha^2 S + sigma^2 I)^-1 (x_t - alpha m). The guidance methods, schedules and losses are
those of the package.
"""

import math

import pytest
import torch
from torch import nn

from prolific_core import cameras
from prolific_core.config import GuidanceConfig, ScoreConfig, TimeConfig
from prolific_core.guidance import sds, vsd
from prolific_core.guidance.score_network.model import ScoreModel
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import NoiseSchedule
from prolific_core.seeding import generator

MEAN = torch.tensor([0.7, -0.4])
COVARIANCE = torch.tensor([[0.6, 0.25], [0.25, 0.3]])
PARTICLES = 64
VIEWS = cameras.orbit(PARTICLES, elevation=0, distance=1.0, fov=45)


def gaussian_eps(schedule, noisy, t, mean, covariance):
    alpha, sigma = (c[:, 0] for c in schedule.coefficients(t))  # (B, 1, 1)
    noised = alpha**2 * covariance + sigma**2 * torch.eye(2)
    away = noisy[:, :, 0, 0, None] - alpha * mean[:, None]
    return (sigma * torch.linalg.solve(noised, away))[..., None]


class Prior(LatentDiffusion):
    """The part of LatentDiffusion that the guidance uses, for N(MEAN, COVARIANCE)."""

    dtype = torch.float32

    def __init__(self):
        from diffusers import DDIMScheduler

        nn.Module.__init__(self)
        self.schedule = NoiseSchedule(DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012))

    def embed(self, texts):
        return torch.zeros(len(texts), 1, 1)

    def predict_noise(self, noisy, t, text):
        return gaussian_eps(self.schedule, noisy, t, MEAN, COVARIANCE)


class Fitted(ScoreModel):
    """Score of the Gaussian that is fitted to the particles (biased covariance), with nothing to train."""

    def __init__(self, prior, particles):
        self.base, self.schedule, self.embed, self.particles = prior, prior.schedule, prior.embed, particles

    def __call__(self, noisy, t, text, c2w, has_camera=None):
        points = self.particles.detach()[:, :, 0, 0]
        return gaussian_eps(self.schedule, noisy, t, points.mean(0), torch.cov(points.T, correction=0))

    def noise_from(self, output, noisy, t):
        return output

    def trainable(self):
        return [nn.Parameter(torch.zeros(1))]


class Learned(ScoreModel):
    """Small network of (x_t, t) that starts as the score of a unit Gaussian and is trained by `vsd.py`."""

    def __init__(self, prior, seed):
        self.base, self.schedule, self.embed = prior, prior.schedule, prior.embed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
        nn.init.zeros_(self.layers[-1].weight), nn.init.zeros_(self.layers[-1].bias)

    def __call__(self, noisy, t, text, c2w, has_camera=None):
        alpha, sigma = (c[:, :, 0, 0] for c in self.schedule.coefficients(t))
        x = noisy[:, :, 0, 0]
        out = self.layers(torch.cat([x, alpha, sigma, x * alpha, x * sigma], dim=1))  # v
        return self.schedule.noise_from(out[..., None, None], noisy, t, "v_prediction")

    def noise_from(self, output, noisy, t):
        return output

    def target(self, latents, noise, t):
        return noise

    def trainable(self):
        return list(self.layers.parameters())

    def refresh(self):
        pass


def start():
    """Return particles that are far from the target in mean and covariance."""
    return nn.Parameter(torch.randn(PARTICLES, 2, 1, 1, generator=generator(0, "particles")) * 1.3 - 1.0)


def optimise(guide, particles, steps, rates):
    """Run the distillation part of the loop with a learning rate that decays as a cosine."""
    optimizer = torch.optim.Adam([particles], lr=rates[0], betas=(0.9, 0.99))
    for step in range(steps):

        def draw(purpose, step=step):
            return generator(0, step, purpose)

        low = (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rates[1] + (rates[0] - rates[1]) * low
        loss = guide.loss(particles, VIEWS, step / steps, draw("guidance"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        guide.train_score_network(particles, VIEWS, draw)
    points = particles.detach()[:, :, 0, 0]
    return points.mean(0), torch.cov(points.T, correction=0)


def settings(**values):
    return GuidanceConfig(scale=1.0, view_prompts=False, time=TimeConfig(anneal="none"), **values)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_vsd_with_the_fitted_gaussian_reaches_mean_and_covariance():
    prior, particles = Prior(), start()
    guide = vsd.VSD(prior, settings(), "", generator=generator(0, "q"), score=Fitted(prior, particles))
    guide.train_score_network = lambda *arguments: {}
    mean, covariance = optimise(guide, particles, 800, (0.05, 1e-4))
    assert relative(mean, MEAN) < 0.02 and relative(covariance, COVARIANCE) < 0.02


def test_sds_collapses_onto_the_mode():
    particles = start()
    guide = sds.SDS(Prior(), settings(method="sds"), "", generator=generator(0, "q"))
    mean, covariance = optimise(guide, particles, 3000, (0.05, 1e-5))
    assert relative(mean, MEAN) < 0.05
    assert covariance.trace() < 0.01 * COVARIANCE.trace()


@pytest.mark.parametrize("share", [False, True])
def test_vsd_with_a_learned_score_reaches_them_nearly(share):
    prior, particles = Prior(), start()
    score = ScoreConfig(learning_rate=3e-3, steps=2, betas=(0.9, 0.99), share_pass=share)
    guide = vsd.VSD(prior, settings(score=score), "", generator=generator(0, "q"), score=Learned(prior, 0))
    mean, covariance = optimise(guide, particles, 1500, (0.02, 1e-4))
    assert relative(mean, MEAN) < 0.15 and relative(covariance, COVARIANCE) < 0.15
