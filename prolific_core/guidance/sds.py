"""Score distillation sampling (DreamFusion, 2209.14988, eq. 3): q is a point, eps_q the added noise."""

from prolific_core.guidance.distillation import Guidance


class Estimator(Guidance):
    def particle_noise(self, noisy, t, noise, cameras):
        return noise
