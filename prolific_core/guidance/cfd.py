"""Consistent flow distillation (Yan et al., arXiv 2501.05445)."""

import math
from typing import Any

import torch
from pydantic import Field

from prolific_core.cameras import Cameras
from prolific_core.config import Fraction, GuidanceConfig, Section
from prolific_core.guidance import surface_noise
from prolific_core.guidance.sds import SDS
from prolific_core.guidance.surface_noise import SIDES, VisibleCells
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import Latents, Times
from prolific_core.render.result import Render

SAMPLES_PER_CELL = 2  # samples of the surface along each axis, if the object fills the image


class Options(Section):
    """Options of consistent flow distillation."""

    # Rate at which the noise is replaced: it has the correlation exp(-refresh d) with that of a fraction d of the run
    # before. 0 keeps it for ever, which is the ODE of the paper. The authors' code has 1e-4 per step of 25,000.
    refresh: float = Field(default=2.5, ge=0, le=1e6)
    # Fraction of the run before which noise is new in each step, because the shape still changes. The authors' code
    # replaces a hundredth of it per step until then.
    start: Fraction = 0.1
    # Cells of the noise along an edge of the cube, for each latent pixel along a side of the image.
    cells: int = Field(default=2, ge=1, le=32)
    # Whether t is the upper bound of `time`, which decreases over the run, as in the paper, instead of a random number.
    annealed: bool = True


class CFD(SDS):
    """Consistent flow distillation: SDS with noise that belongs to the particle, and with a t that decreases.

        grad = w(t) ( eps_pretrained(x_t, t, y) - n ),   x_t = alpha x + sigma n

    With the same noise n in every step, the image x follows the probability flow ODE of the prior, of which it is the
    clean part. In 3D, n is attached to the object's surface, so that the flows of all views agree; see
    `surface_noise.py`. Latent pixels that show the background, and images that have no depth, keep a noise of their
    own. n is replaced slowly, which turns the ODE into an SDE.

    The authors' code divides the gradient by the mean absolute error of the predicted image; here, w(t) is that of
    `config.weighting`.

    Args:
        prior: The diffusion model to distil.
        config: Parameters of the guidance.
        prompt: Text of the prompt, which is inserted into the template `config.prompt`.
        generator: Not used, because there is no score network.
    """

    options_type = Options
    options: Options

    def __init__(
        self, prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator | None = None
    ):
        super().__init__(prior, config, prompt, generator=generator)
        self._particle = 0
        self._seen: VisibleCells | None = None
        self._noise: dict[str, dict[str, Any]] = {}  # by particle

    def observe(self, particle: int, render: Render, cameras: Cameras) -> None:
        """Find the surface that the next views show; see `Guidance.observe`."""
        self._particle, self._seen = particle, None
        if render.depth is not None:
            latent_side, cells = self.prior.latent_shape[-1], self.options.cells
            self._seen = surface_noise.visible_cells(
                render, cameras, latent_side, latent_side * cells, SAMPLES_PER_CELL * cells
            )

    def gradient(
        self, latents: Latents, cameras: Cameras, t: Times, noise: Latents, generator: torch.Generator | None = None
    ) -> Latents:
        """Return the gradient given in the class's docstring; see `Guidance.gradient`.

        `noise` is what replaces a part of the particle's noise.
        """
        return super().gradient(latents, cameras, t, self.consistent(noise, generator), generator)

    def consistent(self, noise: Latents, generator: torch.Generator | None = None) -> Latents:
        """Replace a part of the particle's noise and return it as the observed views show it.

        Args:
            noise: Standard normal noise, which replaces that of the image.
            generator: Source of the noise that replaces that of the surface, on the CPU. If None, torch's global
                generator is used.
        """
        state, seen = self._noise.setdefault(str(self._particle), {}), self._seen
        keep = self._kept(state)
        state["progress"] = self.progress
        if seen is None:
            state["image"] = _replaced(state.get("image"), noise, keep)
            return state["image"]
        state["image"] = _replaced(state.get("image"), noise[:1], keep)
        cells = SIDES * (noise.shape[-1] * self.options.cells) ** 2
        new = torch.randn(cells, noise.shape[1], generator=generator).to(noise)
        state["surface"] = _replaced(state.get("surface"), new, keep)
        return surface_noise.transport(state["surface"], seen, state["image"].expand_as(noise))

    def _kept(self, state: dict[str, Any]) -> float:
        """Return the correlation of the particle's noise with that of its last step."""
        if not state or self.progress < max(self.options.start, state["progress"]):  # or in another run
            return 0.0
        return math.exp(-self.options.refresh * (self.progress - state["progress"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the noise of all particles; see `Guidance.state_dict`."""
        return {"noise": {particle: dict(state) for particle, state in self._noise.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`; see `Guidance.load_state_dict`."""
        device = self.prior.device
        self._noise = {
            particle: {name: value.to(device) if torch.is_tensor(value) else value for name, value in noise.items()}
            for particle, noise in state["noise"].items()
        }


def _replaced(old: torch.Tensor | None, new: torch.Tensor, keep: float) -> torch.Tensor:
    """Return standard normal noise with the correlation `keep` with the old noise."""
    return new if old is None or keep == 0 else keep * old + math.sqrt(1 - keep * keep) * new
