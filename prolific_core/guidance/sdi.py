"""Score distillation via inversion (Lukoianov et al., arXiv 2405.15891)."""

import torch
from pydantic import Field

from prolific_core.cameras import Cameras
from prolific_core.config import Section
from prolific_core.guidance import ddim
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times, classifier_free


class Options(Section):
    """Options of score distillation via inversion."""

    # Guidance scale of the inversion. The paper's -7.5 is a weight in addition to the conditional prediction, eps_y +
    # gamma (eps_y - eps_none), which is a scale of gamma + 1 here. For the same reason, its scale of 7.5 is 8.5 here.
    inversion_scale: float = Field(default=-6.5, ge=-1000, le=1000)
    # Number of steps of an inversion from 0 to the number of time steps; inversions to smaller t have fewer.
    inversion_steps: int = Field(default=10, ge=1, le=1000)
    # Whether t is the upper bound of `time`, which decreases over the run, as in the paper, instead of a random number.
    annealed: bool = True


class SDI(Guidance):
    """Score distillation via inversion, which replaces the random noise of SDS by noise that matches the render.

        grad = x - x0_hat(x_t),   x0_hat = (x_t - sigma eps_pretrained(x_t, t, y)) / alpha

    x_t is found by DDIM inversion of the render x with the prompt and a negative guidance scale, so that x follows a
    deterministic sampling trajectory. The gradient equals (sigma / alpha) (eps_pretrained - noise) with the noise
    (x_t - alpha x) / sigma that the inversion finds; there is no other weight. The authors' code also adds some noise
    in the inversion and ends it up to a tenth of the time steps after t; both are left out here.

    Raises:
        InputError: `config.weighting` is set, although it does not apply to this method.
    """

    unused = ("weighting",)
    options_type = Options
    options: Options

    def gradient(
        self, latents: Latents, cameras: Cameras, t: Times, noise: Latents, generator: torch.Generator | None = None
    ) -> Latents:
        """Return the gradient given in the class's docstring; see `Guidance.gradient`."""
        schedule, x = self.prior.schedule, latents.detach()
        stride = max(1, schedule.length // self.options.inversion_steps)
        x_t = ddim.invert(schedule, x, t, stride, lambda noisy, now, rows: self._inverting(noisy, now, cameras[rows]))
        alpha, sigma = schedule.coefficients(t)
        return x - (x_t - sigma * self.pretrained(x_t, t, cameras)) / alpha

    def _inverting(self, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
        """Predict the noise with the guidance scale of the inversion."""
        eps_negative, eps_positive = self.predict(noisy, t, [self.negative(len(noisy)), self.embed_views(cameras)])
        return classifier_free(eps_negative, eps_positive, self.options.inversion_scale)
