"""Experiment that shows where particles end on priors with scores in closed form (`prolific bench theory`).

The latents are points of two dimensions, (B, 2, 1, 1), and the prior is a mixture of Gaussians. With
x_0 ~ sum_k w_k N(m_k, S_k) and x_t = alpha x_0 + sigma eps, x_t ~ sum_k w_k N(alpha m_k, C_k), C_k = alpha^2 S_k +
sigma^2 I, and

    eps(x_t) = sigma sum_k r_k(x_t) C_k^-1 (x_t - alpha m_k),   r_k(x_t) ~ w_k N(x_t; alpha m_k, C_k)

The guidance methods, schedules and losses are those of the package; only the networks are replaced.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prolific_core import cameras
from prolific_core.config import GuidanceConfig, ScoreConfig, TimeConfig
from prolific_core.guidance.base import Guidance, method_class
from prolific_core.guidance.score_network.model import ScoreModel
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import Latents, NoiseSchedule, TextEmbeddings, Times
from prolific_core.seeding import generator

PARTICLES = 64
VIEWS = cameras.orbit(PARTICLES, elevation=0, distance=1.0, fov=45)
PROMPT = "target"


@dataclass(frozen=True)
class Mixture:
    """Mixture of Gaussians in the plane.

    Attributes:
        weights: Weights of the components, which add up to 1.
        means: Means of the components.
        covariances: Covariances of the components.
    """

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k 2"]
    covariances: Float[Tensor, "k 2 2"]

    def eps(self, schedule: NoiseSchedule, noisy: Latents, t: Times) -> Latents:
        """Return the noise that corresponds to the score at time t."""
        alpha, sigma = (c[:, :, 0] for c in schedule.coefficients(t))  # (B, 1, 1)
        variances, axes = self._axes
        away = torch.einsum("bki,kij->bkj", noisy[:, None, :, 0, 0] - alpha * self.means, axes)
        noised = alpha**2 * variances + sigma**2  # eigenvalues of C_k, (B, K, 2)
        log = self.weights.log() - 0.5 * (away.square() / noised + noised.log()).sum(2)
        mixed = torch.einsum("bk,bkj,kij->bi", log.softmax(1), away / noised, axes)
        return (sigma[..., 0] * mixed)[..., None, None]

    @cached_property
    def _axes(self) -> tuple[Float[Tensor, "k 2"], Float[Tensor, "k 2 2"]]:
        """Eigenvalues and eigenvectors of the covariances, which adding noise does not turn."""
        return torch.linalg.eigh(self.covariances)

    def nearest(self, points: Float[Tensor, "n 2"]) -> Tensor:
        """Return the number of the component whose mean is nearest to each point."""
        return torch.cdist(points, self.means).argmin(1)


def gaussian(mean: list[float], covariance: list[list[float]]) -> Mixture:
    """Return a single Gaussian."""
    return Mixture(torch.ones(1), torch.tensor([mean]), torch.tensor([covariance]))


GAUSSIAN = gaussian([0.7, -0.4], [[0.6, 0.25], [0.25, 0.3]])
TWO_MODES = Mixture(
    torch.tensor([0.7, 0.3]), torch.tensor([[1.0, 0.5], [-1.0, -0.5]]), 0.06 * torch.eye(2).expand(2, 2, 2)
)
BROAD = gaussian([0.0, 0.0], [[2.0, 0.0], [0.0, 2.0]])  # the prior without a text


class Oracle(LatentDiffusion):
    """Prior with a closed-form score: `target` for the prompt, and a broad Gaussian for the empty text.

    For the prompt with additional words, it is the target with all points half as far again from the origin, which
    stands for the oversaturated renders that the source prompt of `bridge` describes.

    Args:
        target: Distribution for the prompt.
    """

    def __init__(self, target: Mixture):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        nn.Module.__init__(self)
        self.schedule = NoiseSchedule(DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012))
        self.target = target
        self._known = [BROAD, target, Mixture(target.weights, 1.5 * target.means, 2.25 * target.covariances)]

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the score."""
        return torch.float32

    def embed(self, texts: str | list[str]) -> TextEmbeddings:
        """Return the number of each text's distribution."""
        texts = [texts] if isinstance(texts, str) else texts
        kinds = [0 if not text else 1 if text == PROMPT else 2 for text in texts]
        return torch.tensor(kinds, dtype=torch.float32)[:, None, None]

    def predict_noise(self, noisy: Latents, t: Times, text: TextEmbeddings) -> Latents:
        """Return the noise of each row's distribution."""
        eps = torch.empty_like(noisy)
        for kind, mixture in enumerate(self._known):
            rows = text[:, 0, 0] == kind
            if rows.any():
                eps[rows] = mixture.eps(self.schedule, noisy[rows], t[rows])
        return eps


class LearnedScore(ScoreModel):
    """Small network of (x_t, t) that starts as the score of a unit Gaussian and is trained by `VSD`.

    Args:
        prior: The prior, whose schedule is used.
        seed: Seed of the initial weights.
        identified: If given, a function that returns the particles. Each camera then sees one particle, whose score is
            that of a point. Without its camera, the network predicts the score of all particles.
    """

    def __init__(self, prior: LatentDiffusion, seed: int, identified: Callable[[], Latents] | None = None):
        self.base, self.schedule, self.embed, self._identified = prior, prior.schedule, prior.embed, identified
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(64, 2)
            self.layers = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), last)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def __call__(
        self,
        noisy: Latents,
        t: Times,
        text: TextEmbeddings,
        c2w: Float[Tensor, "batch 4 4"],
        has_camera: Bool[Tensor, " batch"] | None = None,
    ) -> Latents:
        """Return the predicted noise."""
        alpha, sigma = (c[:, :, 0, 0] for c in self.schedule.coefficients(t))
        x = noisy[:, :, 0, 0]
        out = self.layers(torch.cat([x, alpha, sigma, x * alpha, x * sigma], dim=1))  # v
        eps = self.schedule.noise_from(out[..., None, None], noisy, t, "v_prediction")
        if self._identified is None or has_camera is None:
            return eps
        points = self._identified().detach().repeat(len(noisy) // PARTICLES, 1, 1, 1)
        alpha, sigma = self.schedule.coefficients(t)
        return torch.where(has_camera[:, None, None, None], (noisy - alpha * points) / sigma, eps)

    def noise_from(self, output: Latents, noisy: Latents, t: Times) -> Latents:
        """Return the output, which is already the noise."""
        return output

    def target(self, latents: Latents, noise: Latents, t: Times) -> Latents:
        """Return the noise, which is the training target."""
        return noise

    def trainable(self) -> list[nn.Parameter]:
        """Return the parameters of the network."""
        return list(self.layers.parameters())

    def refresh(self) -> None:
        """Do nothing, because no tensor is derived from the parameters."""


def optimise(
    guide: Guidance, particles: nn.Parameter, steps: int, rates: tuple[float, float]
) -> Float[Tensor, "particles 2"]:
    """Run the distillation part of the training loop with a learning rate that decays as a cosine.

    Args:
        guide: The guidance method.
        particles: The particles (64, 2, 1, 1), which are trained in place.
        steps: Number of steps.
        rates: First and last learning rate.

    Returns:
        The final particles.
    """
    optimizer = torch.optim.Adam([particles], lr=rates[0], betas=(0.9, 0.99))
    for step in range(steps):

        def draw(purpose: str, step: int = step) -> torch.Generator:
            return generator(0, step, purpose)

        low = (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rates[1] + (rates[0] - rates[1]) * low
        loss = guide.loss(particles, VIEWS, step / steps, draw("guidance"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        guide.train_score_network(particles, VIEWS, draw)
    return particles.detach()[:, :, 0, 0]


@dataclass(frozen=True)
class Row:
    """Where the particles of a method end, as ratios to the prior's own values.

    Attributes:
        method: Name of the method.
        scale: Guidance scale.
        mean_error: Distance of the mean from the Gaussian's, divided by the norm of the latter.
        variance: Trace of the covariance, divided by that of the Gaussian.
        smaller_mode: Fraction of the particles that are nearest to the mode with the weight 0.3.
        mode_error: Largest distance of the mean of a mode's particles from the mode, in its standard deviations.
        mode_variance: Variance around the mean of the mode's particles, divided by that of the mode.
        evaluations: Evaluations of the prior per particle and step.
    """

    method: str
    scale: float
    mean_error: float
    variance: float
    smaller_mode: float
    mode_error: float
    mode_variance: float
    evaluations: float


def row(method: str, scale: float, steps: int = 1500) -> Row:
    """Run a method on the Gaussian and on the mixture with two modes.

    Args:
        method: Name of the guidance method.
        scale: Guidance scale.
        steps: Number of steps.

    Returns:
        Where the particles end.
    """
    points, evaluations = _run(method, scale, GAUSSIAN, steps)
    truth = GAUSSIAN.means[0]
    mean_error = float((points.mean(0) - truth).norm() / truth.norm())
    variance = float(torch.cov(points.T, correction=0).trace() / GAUSSIAN.covariances[0].trace())
    points, _ = _run(method, scale, TWO_MODES, steps)
    nearest, groups = TWO_MODES.nearest(points), []
    for k in range(2):
        if len(own := points[nearest == k]):
            groups.append((k, own))
    spread = torch.cat([own - own.mean(0) for _, own in groups]).square().sum(1).mean()
    deviation = float(TWO_MODES.covariances[0, 0, 0]) ** 0.5
    errors = [float((own.mean(0) - TWO_MODES.means[k]).norm()) / deviation for k, own in groups]
    return Row(
        method,
        scale,
        mean_error,
        variance,
        float((nearest == 1).float().mean()),
        max(errors),
        float(spread) / (2 * deviation**2),
        evaluations,
    )


def _run(method: str, scale: float, target: Mixture, steps: int) -> tuple[Float[Tensor, "particles 2"], float]:
    """Return the final particles and the evaluations of the prior per particle and step."""
    prior = Oracle(target)
    particles = nn.Parameter(torch.randn(PARTICLES, 2, 1, 1, generator=generator(0, "particles")) * 1.5)
    score = ScoreConfig(learning_rate=3e-3, steps=2, betas=(0.9, 0.99), camera_dropout=1.0)
    time = TimeConfig(anneal="sqrt", final=0.3)
    config = GuidanceConfig(method=method, scale=scale, view_prompts=False, time=time, score=score)
    kind, counted = method_class(method), 0
    extra = {}
    if "score" in inspect.signature(kind).parameters:
        # ESD differs from VSD only if cameras tell particles apart.
        extra["score"] = LearnedScore(prior, 0, identified=None if method == "vsd" else lambda: particles)
    guide = kind(prior, config, PROMPT, generator=generator(0, "q"), **extra)
    predict = prior.predict_noise

    def counting(noisy: Latents, t: Times, text: TextEmbeddings) -> Latents:
        nonlocal counted
        counted += len(noisy)
        return predict(noisy, t, text)

    prior.predict_noise = counting
    points = optimise(guide, particles, steps, (0.03, 1e-4))
    return points, counted / (steps * PARTICLES)
