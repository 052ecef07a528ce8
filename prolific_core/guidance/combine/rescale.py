"""CFG rescale (Lin et al., 2305.08891, section 3.4, eqs. 15 and 16), against over-exposure at large scales:

    x_cfg      = x_neg + s (x_pos - x_neg)
    x_rescaled = x_cfg std(x_pos) / std(x_cfg)            each picture's own, over channels and pixels
    x          = phi x_rescaled + (1 - phi) x_cfg         phi = `rescale`, 0.7 in the paper

x is what the prior's network puts out (eps or v), as in the paper and in diffusers.
"""

from torch import Tensor

from prolific_core.prior.latent_diffusion import classifier_free


def guided(guide, noisy, t, cameras):
    schedule = guide.prior.schedule
    predictions = guide.predict(noisy, t, [guide.negative(len(noisy)), guide.embed_views(cameras)])
    negative, positive = (schedule.output_from(noise, noisy, t) for noise in predictions)
    output = rescaled(classifier_free(negative, positive, guide.config.scale), positive, guide.config.rescale)
    return schedule.noise_from(output, noisy, t)


def rescaled(output: Tensor, positive: Tensor, share: float) -> Tensor:
    """`output` (B, ...) with the standard deviation of `positive`, mixed with itself by `share` in [0, 1]."""
    axes = tuple(range(1, output.ndim))
    ratio = positive.std(dim=axes, keepdim=True) / output.std(dim=axes, keepdim=True)
    return share * output * ratio + (1 - share) * output
