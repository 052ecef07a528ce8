"""Entropic score distillation (Wang et al., arXiv 2401.00909)."""

import torch

from prolific_core.cameras import Cameras
from prolific_core.config import Fraction, GuidanceConfig, Section
from prolific_core.errors import InputError
from prolific_core.guidance.score_network.model import ScoreModel
from prolific_core.guidance.vsd import VSD
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import Latents, Times


class Options(Section):
    """Options of entropic score distillation."""

    # Weight lambda of the score without the camera; 0 is VSD. The authors suggest 0.5, as the guidance scale of the
    # score network.
    marginal: Fraction = 0.5


class ESD(VSD):
    """Entropic score distillation, which is VSD with the entropy of the renders from all cameras as a regulariser.

        eps_q = (1 - lambda) eps_q(x_t, t, c, y) + lambda eps_q(x_t, t, y)

    The second score, of renders from any camera, is that of the same network without its camera embedding, which the
    training omits with the probability `config.score.camera_dropout`. It raises the entropy of the marginal
    distribution over cameras, so that views differ from each other. As the paper shows, the mixture is classifier-free
    guidance of the score network with respect to its camera.

    Args:
        prior: The diffusion model to distil.
        config: Parameters of the guidance.
        prompt: Text of the prompt, which is inserted into the template `config.prompt`.
        generator: Source of the random numbers that initialise the score network. If None, torch's global generator is
            used.
        score: The score network; if None, it is created from `config.score`.

    Raises:
        InputError: `config.score.share_pass` is set, which would train the network on one of the two scores, or
            `config.score.camera_dropout` is 0, so that the second score would never be trained.
    """

    options_type = Options
    options: Options

    def __init__(
        self,
        prior: LatentDiffusion,
        config: GuidanceConfig,
        prompt: str,
        *,
        generator: torch.Generator | None = None,
        score: ScoreModel | None = None,
    ):
        if config.score.share_pass:
            raise InputError("guidance.score.share_pass: must not be set with method 'esd'; set it to false")
        if not config.score.camera_dropout:
            raise InputError("guidance.score.camera_dropout: must be above 0 with method 'esd'; set it to 0.1")
        super().__init__(prior, config, prompt, generator=generator, score=score)

    @torch.no_grad()
    def predict_eps_q(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Return the mixture given in the class's docstring; see `Guidance.predict_eps_q`."""
        batch = len(noisy)
        both, times, c2w = torch.cat([noisy] * 2), torch.cat([t] * 2), torch.cat([cameras.c2w] * 2)
        has_camera = torch.arange(2 * batch, device=noisy.device) < batch
        output = self.score(both, times, self._text(2 * batch), c2w, has_camera)
        of_camera, of_all = self.score.noise_from(output, both, times).chunk(2)
        return torch.lerp(of_camera, of_all, self.options.marginal)
