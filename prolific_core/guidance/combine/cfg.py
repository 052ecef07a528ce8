"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598)."""

from prolific_core.cameras import Cameras
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times, classifier_free


def guided(guide: Guidance, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
    """Predict the noise with classifier-free guidance.

    The prediction for the negative prompt replaces the unconditional prediction. The two are the same if the negative
    prompt is empty.

    Args:
        guide: The guidance whose texts and scale are used.
        noisy: Noisy latents x_t.
        t: Time steps.
        cameras: Cameras of the views.

    Returns:
        The guided noise, negative + scale * (conditional - negative).
    """
    if guide.config.scale == 1.0:
        return guide.conditional(noisy, t, cameras)
    unconditional, conditional = guide.predict(noisy, t, [guide.negative(len(noisy)), guide.embed_views(cameras)])
    return classifier_free(unconditional, conditional, guide.config.scale)
