"""What every estimator shares: noise the render, ask the prior, subtract the particles' own score.

    grad = w(t) ( eps_pretrained(x_t, t, y_view; CFG) - eps_q(x_t, t, c, y) )      2305.16213, eq. 9

The estimators (`sds.py`, `vsd.py`) differ in eps_q only, and are found by their module's name.
"""

import importlib

import torch
from torch import Tensor

from prolific_core.cameras import Cameras, view_words
from prolific_core.config import GuidanceConfig
from prolific_core.guidance import schedules
from prolific_core.prior.latent_diffusion import LatentDiffusion


def make(prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator) -> "Guidance":
    """The estimator named by `config.method`."""
    module = importlib.import_module(f"prolific_core.guidance.{config.method}")
    return module.Estimator(prior, config, prompt, generator=generator)


class Guidance:
    """An estimator of the distillation gradient; subclasses say what eps_q is."""

    def __init__(self, prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator):
        self.prior, self.config = prior, config
        self.prompt = config.prompt.replace("{prompt}", prompt)

    def particle_noise(self, noisy: Tensor, t: Tensor, noise: Tensor, cameras: Cameras) -> Tensor:
        """eps_q (B, C, h, w)."""
        raise NotImplementedError

    def gradient(self, latents: Tensor, cameras: Cameras, t: Tensor, noise: Tensor) -> Tensor:
        """The gradient with respect to the latents (B, C, h, w), at times t (B,) with the given noise."""
        schedule = self.prior.schedule
        latents = latents.detach()
        noisy = schedule.add_noise(latents, noise, t)
        negative = self.prior.embed([self.config.negative_prompt] * len(latents))
        pretrained = self.prior.guided_noise(noisy, t, self.embed_views(cameras), negative, self.config.scale)
        own = self.particle_noise(noisy, t, noise, cameras)
        w = schedules.weight(self.config.weighting, schedule.alphas_cumprod[t])[:, None, None, None]
        return w * (pretrained - own)

    def loss(self, latents: Tensor, cameras: Cameras, progress: float, generator: torch.Generator) -> Tensor:
        """A scalar whose gradient with respect to the latents is the estimator's, over the batch's size.

        Its value is half the gradient's squared norm, so that a curve of it says something: how far
        the prior and the particles' score are apart.
        """
        t = schedules.sample_times(len(latents), self.config.time, progress, self.prior.schedule.length, generator)
        noise = torch.randn(latents.shape, generator=generator)
        gradient = self.gradient(latents, cameras, t.to(latents.device), noise.to(latents.device))
        target = (latents - gradient).detach()
        return (latents - target).square().sum() / (2 * len(latents))

    def embed_views(self, cameras: Cameras) -> Tensor:
        """Text embeddings (B, L, D), with view words where the configuration asks for them."""
        if not self.config.view_words:
            return self.prior.embed([self.prompt] * len(cameras))
        return self.prior.embed([f"{self.prompt}, {words}" for words in view_words(cameras)])

    def follow(self, latents: Tensor, cameras: Cameras, step_seed, measure: bool = False) -> dict[str, float]:
        """Train eps_q on the particles' latents; estimators without a learned score do nothing.

        `step_seed(purpose)` gives this step's generator for a purpose. Returns measures to log, the
        costlier ones only where `measure` asks for them.
        """
        return {}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
