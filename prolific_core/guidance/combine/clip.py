"""Score clipping of D-SDS (Hong et al., arXiv 2303.15413), which limits the prediction for several texts.

    eps = clip(uncond + s (cond - uncond), -c, c),   c = start + progress (end - start)

At a large guidance scale, a biased score of a single view, such as a second face, dominates the others. The paper
truncates the score estimated by the 2D model and raises the threshold linearly over the run. In the
authors' code, it rises from a quarter of 8 to 8, in units of the noise's standard deviation; their code clips after the
added noise has been subtracted, and this file before, because a composition applies to methods of all kinds.
"""

from pydantic import Field, model_validator

from prolific_core.cameras import Cameras
from prolific_core.config import Section
from prolific_core.guidance.base import Guidance
from prolific_core.guidance.combine import cfg
from prolific_core.prior.noise_schedule import Latents, Times


class Options(Section):
    """Options of score clipping, in units of the standard deviation of the noise."""

    start: float = Field(default=2.0, gt=0, le=1000)  # threshold at the start of the run
    end: float = Field(default=8.0, gt=0, le=1000)  # threshold at the end of the run

    @model_validator(mode="after")
    def _check_order(self) -> "Options":
        if self.start > self.end:
            raise ValueError(f"start must not be above end, got {self.start} and {self.end}")
        return self


def guided(guide: Guidance, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
    """Predict the noise with classifier-free guidance and clip each element.

    Args:
        guide: The guidance whose texts, scale and progress are used.
        noisy: Noisy latents x_t.
        t: Time steps.
        cameras: Cameras of the views.

    Returns:
        The guided noise, in [-threshold, threshold].
    """
    options = guide.config.options_of(Options)
    threshold = options.start + guide.progress * (options.end - options.start)
    return cfg.guided(guide, noisy, t, cameras).clamp(-threshold, threshold)
