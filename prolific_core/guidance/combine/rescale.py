"""Rescaled classifier-free guidance, which avoids over-exposure at large scales (Lin et al., arXiv 2305.08891).

    x_cfg      = x_neg + s (x_pos - x_neg)
    x_rescaled = x_cfg std(x_pos) / std(x_cfg)            for each image, over channels and pixels
    x          = phi x_rescaled + (1 - phi) x_cfg         phi = `rescale`, 0.7 in the paper

These are equations 15 and 16 in section 3.4. As in the paper and in diffusers, x is the output of the prior's
network, which is eps or v.
"""

from jaxtyping import Float
from torch import Tensor

from prolific_core.cameras import Cameras
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times, classifier_free


def guided(guide: Guidance, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
    """Predict the noise with rescaled classifier-free guidance.

    Args:
        guide: The guidance whose texts, scale and `rescale` are used.
        noisy: Noisy latents x_t.
        t: Time steps.
        cameras: Cameras of the views.

    Returns:
        The guided noise.
    """
    schedule = guide.prior.schedule
    predictions = guide.predict(noisy, t, [guide.negative(len(noisy)), guide.embed_views(cameras)])
    negative, positive = (schedule.output_from(noise, noisy, t) for noise in predictions)
    output = rescaled(classifier_free(negative, positive, guide.config.scale), positive, guide.config.rescale)
    return schedule.noise_from(output, noisy, t)


def rescaled(
    output: Float[Tensor, "batch *shape"], positive: Float[Tensor, "batch *shape"], phi: float
) -> Float[Tensor, "batch *shape"]:
    """Rescale an output to the standard deviation of the conditional output and blend it with the original.

    Args:
        output: Guided output of the network.
        positive: Conditional output of the network.
        phi: Weight of the rescaled output in [0, 1].

    Returns:
        The blended output.
    """
    axes = tuple(range(1, output.ndim))
    ratio = positive.std(dim=axes, keepdim=True) / output.std(dim=axes, keepdim=True)
    return phi * output * ratio + (1 - phi) * output
