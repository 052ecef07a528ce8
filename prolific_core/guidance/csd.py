"""Classifier score distillation (Yu et al., arXiv 2310.19415)."""

from pydantic import Field

from prolific_core.cameras import Cameras
from prolific_core.config import Section
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times


class Options(Section):
    """Options of classifier score distillation."""

    # Weight w2 of the negative prompt; null selects the value of `scale`.
    negative_scale: float | None = Field(default=None, ge=0, le=1000)


class CSD(Guidance):
    """Classifier score distillation, which uses only the part of the score that depends on the text.

        grad = w(t) ( w1 (eps(x_t; y) - eps(x_t; none)) + w2 (eps(x_t; none) - eps(x_t; negative)) )

    w1 is `config.scale` and w2 is the option `negative_scale`, which the paper decreases manually in its texture stage.
    With w2 = w1, the default, the unconditional prediction cancels out and two evaluations are sufficient:
    w1 (eps(x_t; y) - eps(x_t; negative)).

    Raises:
        InputError: `config.combine` or `config.interval` is set, although neither applies to this method.
    """

    unused = ("combine", "interval")
    options_type = Options
    options: Options

    def score_difference(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Return the weighted sum given in the class's docstring; see `Guidance.score_difference`."""
        scale, negative_scale = self.config.scale, self.options.negative_scale
        positive, negative = self.embed_views(cameras), self.negative(len(noisy))
        if negative_scale is None or negative_scale == scale or not self.config.negative_prompt:
            eps_negative, eps_positive = self.predict(noisy, t, [negative, positive])
            return scale * (eps_positive - eps_negative)
        texts = [negative, self.empty(len(noisy)), positive]
        eps_negative, eps_none, eps_positive = self.predict(noisy, t, texts)
        return scale * (eps_positive - eps_none) + negative_scale * (eps_none - eps_negative)
