"""Asynchronous score distillation (ScaleDreamer; Ma et al., arXiv 2407.02040)."""

import torch

from prolific_core.cameras import Cameras
from prolific_core.config import Fraction, Section
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times


class Options(Section):
    """Options of asynchronous score distillation."""

    # The second score is evaluated at t' = t + ratio (t - t_min), where t_min is the minimum of `time`.
    ratio: Fraction = 0.1
    # Whether the shift t' - t is multiplied by a random number in [0, 1). The paper draws it at random; the
    # authors' code has both, and the fixed shift for Stable Diffusion.
    random: bool = False


class ASD(Guidance):
    """Asynchronous score distillation, in which eps_q is the prior's own prediction at a later time step.

        grad = w(t) ( eps_pretrained(x_t, t, y) - eps(x_t', t', y) ),   t' = t + ratio (t - t_min)

    The same noise is in x_t and x_t'. The paper observes that the denoising error of the prior decreases with t, as
    that of a score network that is trained on the renders does at the same t, so that no network has to be trained.
    The second prediction has the view-dependent prompt and no guidance, as in the authors' code.
    """

    options_type = Options
    options: Options

    def gradient(
        self, latents: Latents, cameras: Cameras, t: Times, noise: Latents, generator: torch.Generator | None = None
    ) -> Latents:
        """Return the gradient given in the class's docstring; see `Guidance.gradient`."""
        schedule, x = self.prior.schedule, latents.detach()
        later = self.later(t, generator)
        eps_pretrained = self.pretrained(schedule.add_noise(x, noise, t), t, cameras)
        eps_q = self.conditional(schedule.add_noise(x, noise, later), later, cameras)
        return self.weight(t) * (eps_pretrained - eps_q)

    def later(self, t: Times, generator: torch.Generator | None = None) -> Times:
        """Return the time steps t' of the second score.

        Args:
            t: Time steps of the first score.
            generator: Source of the random numbers, on the CPU. If None, torch's global generator is used.

        Returns:
            Time steps, which are at least t.
        """
        length = self.prior.schedule.length
        shift = self.options.ratio * (t - self.config.time.minimum * length)
        if self.options.random:
            count = 1 if self.prior.views_together > 1 else len(t)  # views that are denoised together share their time
            shift = shift * torch.rand(count, generator=generator).to(t.device)
        return t + shift.long().clamp_min(0).minimum(length - 1 - t)
