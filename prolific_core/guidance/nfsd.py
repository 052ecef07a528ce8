"""Noise-free score distillation (Katzir et al., arXiv 2310.17590)."""

import torch

from prolific_core.cameras import Cameras
from prolific_core.config import Fraction, Section
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times


class Options(Section):
    """Options of noise-free score distillation."""

    # Time below which the unconditional prediction itself is the domain correction, as a fraction of the number of time
    # steps. The paper uses t < 200 of 1000.
    threshold: Fraction = 0.2


class NFSD(Guidance):
    """Noise-free score distillation, which leaves the predicted noise out of the score.

        grad = w(t) ( delta_D + s (eps(x_t; y) - eps(x_t; none)) )
        delta_D = eps(x_t; none)                          if t < 0.2 T
                  eps(x_t; none) - eps(x_t; negative)     otherwise

    The scale s is that of sampling, 7.5 in the paper. For small t, the unconditional prediction hardly contains noise
    and is the direction towards the domain of images. For large t, the noise cancels out in the difference to a
    negative prompt that describes poor images. The paper's negative prompt is
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy". If
    `config.negative_prompt` is empty, the domain correction is zero for large t, and only two texts are evaluated.

    Raises:
        InputError: `config.combine` or `config.interval` is set, although neither applies to this method.
    """

    unused = ("combine", "interval")
    options_type = Options
    options: Options

    def score_difference(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Return the sum given in the class's docstring; see `Guidance.score_difference`."""
        texts = [self.empty(len(noisy)), self.embed_views(cameras)]
        if self.config.negative_prompt:
            texts.append(self.negative(len(noisy)))
        eps_none, eps_positive, *rest = self.predict(noisy, t, texts)
        eps_negative = rest[0] if rest else eps_none
        small = (t < self.options.threshold * self.prior.schedule.length)[:, None, None, None]
        domain = torch.where(small, eps_none, eps_none - eps_negative)
        return domain + self.config.scale * (eps_positive - eps_none)
