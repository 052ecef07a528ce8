"""What every estimator shares: noise the render, ask the prior, subtract the particles' own score.

    grad = w(t) ( eps_pretrained(x_t, t, y_view; CFG) - eps_q(x_t, t, c, y) )      2305.16213, eq. 9

The estimators (`sds.py`, `vsd.py`) differ in eps_q only (`csd.py` in the whole bracket); they are found
by their module's name, and so is the way in which eps_pretrained is composed (`combine/`).
"""

import importlib

import torch
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.config import GuidanceConfig
from prolific_core.guidance import timesteps, view_prompts
from prolific_core.prior.latent_diffusion import LatentDiffusion


def build_guidance(
    prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator
) -> "Guidance":
    """The estimator named by `config.method`."""
    module = importlib.import_module(f"prolific_core.guidance.{config.method}")
    methods = (
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    )
    return next(method for method in methods if issubclass(method, Guidance))(
        prior, config, prompt, generator=generator
    )


class Guidance:
    """An estimator of the distillation gradient; subclasses say what eps_q is."""

    def __init__(self, prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator):
        self.prior, self.config = prior, config
        self.prompt = config.prompt.replace("{prompt}", prompt)
        self._combine = importlib.import_module(f"prolific_core.guidance.combine.{config.combine}")
        if hasattr(self._combine, "check"):
            self._combine.check(config)

    def predict_eps_q(self, noisy: Tensor, t: Tensor, noise: Tensor, cameras: Cameras) -> Tensor:
        """eps_q (B, C, h, w)."""
        raise NotImplementedError

    def gradient(self, latents: Tensor, cameras: Cameras, t: Tensor, noise: Tensor) -> Tensor:
        """The gradient with respect to the latents (B, C, h, w), at times t (B,) with the given noise."""
        schedule = self.prior.schedule
        noisy = schedule.add_noise(latents.detach(), noise, t)
        w = timesteps.weight(self.config.weighting, schedule.alphas_cumprod[t])[:, None, None, None]
        return w * self.score_difference(noisy, t, noise, cameras)

    def score_difference(self, noisy: Tensor, t: Tensor, noise: Tensor, cameras: Cameras) -> Tensor:
        """eps_pretrained - eps_q (B, C, h, w)."""
        return self.pretrained(noisy, t, cameras) - self.predict_eps_q(noisy, t, noise, cameras)

    def loss(self, latents: Tensor, cameras: Cameras, progress: float, generator: torch.Generator) -> Tensor:
        """A scalar whose gradient with respect to the latents is the estimator's, over the batch's size.

        Its value is half the gradient's squared norm, so that a curve of it says something: how far
        the prior and the particles' score are apart.
        """
        t = timesteps.sample_times(len(latents), self.config.time, progress, self.prior.schedule.length, generator)
        noise = torch.randn(latents.shape, generator=generator)
        gradient = self.gradient(latents, cameras, t.to(latents.device), noise.to(latents))
        target = (latents - gradient).detach()
        return (latents - target).square().sum() / (2 * len(latents))

    # What the prior is asked

    def pretrained(self, noisy: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """eps_pretrained (B, C, h, w): guided, or only conditional where t is outside of `interval`."""
        inside = self._inside(t)
        if inside.all():
            return self._combine.guided(self, noisy, t, cameras)
        rows, others = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        eps = torch.empty_like(noisy)
        eps[others] = self.conditional(noisy[others], t[others], cameras[others])
        if len(rows):
            eps[rows] = self._combine.guided(self, noisy[rows], t[rows], cameras[rows])
        return eps

    def _inside(self, t: Tensor) -> Tensor:
        if self.config.interval is None:
            return torch.ones_like(t, dtype=torch.bool)
        low, high = (end * self.prior.schedule.length for end in self.config.interval)
        return (t >= low) & (t <= high)

    def conditional(self, noisy: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """eps (B, C, h, w) for the text with its view words, unguided."""
        return self.predict(noisy, t, [self.embed_views(cameras)])[0]

    @torch.no_grad()
    def predict(self, noisy: Tensor, t: Tensor, texts: list[Tensor]) -> tuple[Tensor, ...]:
        """eps (B, C, h, w) for each of n texts (B, L, D), in one evaluation of n B rows."""
        n = len(texts)
        return self.prior.predict_noise(torch.cat([noisy] * n), torch.cat([t] * n), torch.cat(texts)).chunk(n)

    def negative(self, batch: int) -> Tensor:
        """Text embeddings (B, L, D) of the negative prompt."""
        return self.prior.embed([self.config.negative_prompt] * batch)

    def embed_views(self, cameras: Cameras) -> Tensor:
        """Text embeddings (B, L, D), with view words where the configuration asks for them."""
        if self.config.view_prompts == "interpolated":
            return view_prompts.interpolated(self.prior, self.prompt, cameras)
        if self.config.view_prompts:
            return view_prompts.stepped(self.prior, self.prompt, cameras)
        return self.prior.embed([self.prompt] * len(cameras))

    # What is learned

    def train_score_network(
        self, latents: Tensor, cameras: Cameras, step_seed, measure: bool = False
    ) -> dict[str, float]:
        """Train eps_q on the particles' latents; estimators without a learned score do nothing.

        `step_seed(purpose)` gives this step's generator for a purpose. Returns measures to log, the
        costlier ones only where `measure` asks for them.
        """
        return {}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
