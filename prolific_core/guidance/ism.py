"""Interval score matching (LucidDreamer; Liang et al., arXiv 2311.11284)."""

import torch
from pydantic import Field

from prolific_core.cameras import Cameras
from prolific_core.config import Fraction, Section
from prolific_core.guidance import ddim
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times


class Options(Section):
    """Options of interval score matching, in fractions of the number of time steps."""

    # Interval t - s between the two scores (delta_T); 50 of 1000 steps in the paper.
    interval: Fraction = 0.05
    # Stride of the inversion from 0 to s (delta_S); 200 of 1000 steps in the paper.
    stride: float = Field(default=0.2, ge=0.005, le=1)


class ISM(Guidance):
    """Interval score matching, which compares two scores on one trajectory of DDIM instead of a score and noise.

        grad = w(t) ( eps_pretrained(x_t, t, y) - eps(x_s, s, none) ),   s = t - interval

    x_s is found by DDIM inversion of the render with the empty text, in strides of `stride`, and x_t by one step of
    length `interval` from x_s. As in the authors' code, the inversion begins at time step 0 with the small noise of
    that step. Their code weights by sigma / alpha, which is `config.weighting: sigma_over_alpha`, and increases the
    interval from 50 to 100 steps at the start of the run, which is left out here.
    """

    options_type = Options
    options: Options

    def gradient(
        self, latents: Latents, cameras: Cameras, t: Times, noise: Latents, generator: torch.Generator | None = None
    ) -> Latents:
        """Return the gradient given in the class's docstring; see `Guidance.gradient`."""
        schedule, options = self.prior.schedule, self.options
        s = (t - round(options.interval * schedule.length)).clamp_min(0)
        start = schedule.add_noise(latents.detach(), noise, torch.zeros_like(t))
        stride = max(1, round(options.stride * schedule.length))
        x_s = ddim.invert(schedule, start, s, stride, lambda noisy, now, _: self.unconditional(noisy, now))
        eps_s = self.unconditional(x_s, s)
        x_t = ddim.step(schedule, x_s, eps_s, s, t)
        return self.weight(t) * (self.pretrained(x_t, t, cameras) - eps_s)
