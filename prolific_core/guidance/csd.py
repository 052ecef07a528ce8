"""Classifier score distillation (Yu et al., 2310.19415): only what the text adds, and no q.

    grad = w(t) ( w1 (eps(x_t; y) - eps(x_t; none)) + w2 (eps(x_t; none) - eps(x_t; negative)) )

w1 is `scale`, w2 `negative_scale` (the paper lowers it by hand in its texture stage). With w2 = w1, the
default, the unconditional cancels and two evaluations are enough: w1 (eps(x_t; y) - eps(x_t; negative)).
"""

from prolific_core.errors import InputError
from prolific_core.guidance.base import Guidance


class CSD(Guidance):
    def __init__(self, prior, config, prompt, *, generator):
        super().__init__(prior, config, prompt, generator=generator)
        for name in ("combine", "interval"):
            if getattr(config, name) != type(config).model_fields[name].default:
                raise InputError(
                    f"guidance.{name}: 'csd' composes no guided score; leave it out, or choose another method"
                )

    def score_difference(self, noisy, t, noise, cameras):
        scale, negative_scale = self.config.scale, self.config.negative_scale
        positive, negative = self.embed_views(cameras), self.negative(len(noisy))
        if negative_scale is None or negative_scale == scale or not self.config.negative_prompt:
            against, wanted = self.predict(noisy, t, [negative, positive])
            return scale * (wanted - against)
        none = self.prior.embed([""] * len(noisy))
        against, empty, wanted = self.predict(noisy, t, [negative, none, positive])
        return scale * (wanted - empty) + negative_scale * (empty - against)
