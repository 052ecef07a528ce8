"""Score distillation sampling (DreamFusion, arXiv 2209.14988, eq. 3)."""

from prolific_core.cameras import Cameras
from prolific_core.guidance.base import Guidance
from prolific_core.prior.noise_schedule import Latents, Times

SCALE = 100.0  # SDS needs a large guidance scale, because it has no learned score


class SDS(Guidance):
    """Score distillation sampling, in which q is a single point and eps_q is therefore the added noise."""

    def predict_eps_q(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Return the added noise; see `Guidance.predict_eps_q`."""
        return noise
