"""Score distillation sampling (DreamFusion, 2209.14988, eq. 3): q is a point, eps_q the added noise."""

from prolific_core.guidance.base import Guidance


class SDS(Guidance):
    def predict_eps_q(self, noisy, t, noise, cameras):
        return noise
