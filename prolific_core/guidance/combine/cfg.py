"""Classifier-free guidance (Ho & Salimans, 2207.12598): uncond + s (cond - uncond).

The negative prompt stands in the unconditional's place; empty, it is the unconditional.
"""

from prolific_core.prior.latent_diffusion import classifier_free


def guided(guide, noisy, t, cameras):
    if guide.config.scale == 1.0:
        return guide.conditional(noisy, t, cameras)
    unconditional, conditional = guide.predict(noisy, t, [guide.negative(len(noisy)), guide.embed_views(cameras)])
    return classifier_free(unconditional, conditional, guide.config.scale)
