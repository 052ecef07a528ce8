"""Score distillation as a bridge between two distributions (McAllister et al., arXiv 2406.09417)."""

from pydantic import Field

from prolific_core.cameras import Cameras
from prolific_core.config import Fraction, Section
from prolific_core.guidance.sds import SDS
from prolific_core.prior.noise_schedule import Latents, Times

SCALE = 100.0  # of the first part of the run, which is SDS


class Options(Section):
    """Options of the bridge."""

    # Fraction of the run after which the bridge replaces SDS. The authors use 0.8 in 3D and 0.5 in 2D.
    start: Fraction = 0.8
    # Scale of the bridge; the authors' default in 2D.
    scale: float = Field(default=40.0, ge=0, le=1000)
    # Words that are appended to the prompt to describe the current renders, as in the authors' code.
    source: str = Field(
        default="oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed",
        max_length=500,
    )
    # Words that are appended to the prompt to describe the target. The authors use none in 3D, and "detailed high
    # resolution, high quality, sharp" in 2D.
    target: str = Field(default="", max_length=500)


class Bridge(SDS):
    """SDS, followed by the direction from the distribution of the renders to that of the prompt.

        grad = w(t) s (eps(x_t; y, target) - eps(x_t; y, source))

    The paper regards the gradient as an approximation of the optimal transport from the current distribution of the
    renders (source) to the target, and describes the source by text, such as "oversaturated, smooth". Before `start`,
    the gradient is that of SDS, to which `config.scale`, `config.combine` and `config.interval` apply.
    """

    options_type = Options
    options: Options

    def score_difference(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Return the difference given in the class's docstring; see `Guidance.score_difference`."""
        if self.progress < self.options.start:
            return super().score_difference(noisy, t, noise, cameras)
        texts = [
            self.embed_views(cameras, self._described(words)) for words in (self.options.source, self.options.target)
        ]
        eps_source, eps_target = self.predict(noisy, t, texts)
        return self.options.scale * (eps_target - eps_source)

    def view_dependent_texts(self) -> list[str]:
        """Return the prompt and the descriptions of source and target; see `Guidance.view_dependent_texts`."""
        return [self.prompt, self._described(self.options.source), self._described(self.options.target)]

    def _described(self, words: str) -> str:
        return f"{self.prompt}, {words}" if words else self.prompt
