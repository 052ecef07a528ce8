"""Base class of the guidance methods, which subtract the particles' score from the prior's score.

    grad = w(t) ( eps_pretrained(x_t, t, y_view; CFG) - eps_q(x_t, t, c, y) )

This is equation 9 of ProlificDreamer (arXiv 2305.16213). Some methods differ only in eps_q (`sds.py`, `vsd.py`,
`esd.py`), some replace the whole difference (`csd.py`, `nfsd.py`, `bridge.py`), and some choose the noisy latents
themselves (`asd.py`, `cfd.py`, `ism.py`, `sdi.py`). Each method is a file in this folder, and each way to combine
predictions for several texts into eps_pretrained is a file in `combine/`. Both kinds of files are selected by name.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prolific_core.cameras import Cameras, cameras_in_all_directions, precise_view_prompts
from prolific_core.cameras import view_prompts as paper_view_prompts
from prolific_core.config import GuidanceConfig, Section
from prolific_core.errors import InputError
from prolific_core.guidance import timesteps, view_prompts
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import Latents, TextEmbeddings, Times
from prolific_core.render.result import Render


def build_guidance(
    prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator | None = None
) -> "Guidance":
    """Create the guidance method named by `config.method`.

    Args:
        prior: The diffusion model to distil.
        config: Parameters of the guidance.
        prompt: Text of the prompt, which is inserted into the template `config.prompt`.
        generator: Source of the random numbers that initialise a score network. If None, torch's global generator is
            used.

    Returns:
        An instance of the subclass of `Guidance` in `guidance/<method>.py`.

    Raises:
        InputError: The configuration combines incompatible options.
    """
    return method_class(config.method)(prior, config, prompt, generator=generator)


def method_class(name: str) -> "type[Guidance]":
    """Return the class of a guidance method.

    Args:
        name: Name of the method, which is that of its module.

    Returns:
        The subclass of `Guidance` that the module defines.
    """
    module = importlib.import_module(f"prolific_core.guidance.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Guidance) and value.__module__ == module.__name__
    )


class Guidance:
    """Base class for estimators of the distillation gradient. Subclasses define eps_q.

    Args:
        prior: The diffusion model to distil.
        config: Parameters of the guidance.
        prompt: Text of the prompt, which is inserted into the template `config.prompt`.
        generator: Source of the random numbers that initialise a score network. If None, torch's global generator is
            used.

    Attributes:
        options: The method's own options, an instance of `options_type`.
        progress: Fraction of the run in [0, 1], which `loss` sets. Only methods and compositions that change over the
            run read it.
    """

    #: Fields of the configuration that do not apply to the method; setting one of them is an error.
    unused: tuple[str, ...] = ()
    #: Class of the options that the method declares in its own module.
    options_type: type[Section] = Section

    def __init__(
        self, prior: LatentDiffusion, config: GuidanceConfig, prompt: str, *, generator: torch.Generator | None = None
    ):
        self._refuse_unused(config)
        self.prior, self.config, self.progress = prior, config, 0.0
        self.options: Any = config.options_of(self.options_type)
        self.prompt = config.prompt.replace("{prompt}", prompt)
        composition = importlib.import_module(f"prolific_core.guidance.combine.{config.combine}")
        self._compose: Callable[[Guidance, Tensor, Tensor, Cameras], Tensor] = composition.guided
        if hasattr(composition, "check"):
            composition.check(config)
        self._view_words: Callable[[Cameras], list[str]] = (
            precise_view_prompts if config.view_prompts == "precise" else paper_view_prompts
        )
        if prior.device.type != "cpu":  # now, so that no step brings the text encoder to the GPU again
            prior.embed(self._texts())

    def predict_eps_q(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Predict eps_q, the noise that corresponds to the score of the particles' distribution q.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            noise: The noise in `noisy`.
            cameras: Cameras of the views.

        Returns:
            The predicted noise eps_q.
        """
        raise NotImplementedError

    def _refuse_unused(self, config: GuidanceConfig) -> None:
        for name in self.unused:
            if getattr(config, name) != type(config).model_fields[name].default:
                raise InputError(
                    f"guidance.{name}: must not be set with method '{config.method}', which does not use it; remove it"
                )

    def gradient(
        self, latents: Latents, cameras: Cameras, t: Times, noise: Latents, generator: torch.Generator | None = None
    ) -> Latents:
        """Return the distillation gradient with respect to the latents.

        Args:
            latents: Latents x_0 of the rendered views.
            cameras: Cameras of the views.
            t: Time steps.
            noise: Standard normal noise.
            generator: Source of further random numbers, on the CPU, for methods that need some. If None, torch's
                global generator is used.

        Returns:
            The gradient, w(t) (eps_pretrained - eps_q).
        """
        noisy = self.prior.schedule.add_noise(latents.detach(), noise, t)
        return self.weight(t) * self.score_difference(noisy, t, noise, cameras)

    def weight(self, t: Times) -> Float[Tensor, "batch 1 1 1"]:
        """Return the weight w(t) of the gradient.

        Args:
            t: Time steps.

        Returns:
            The weights, which broadcast over latents.
        """
        w = timesteps.weight(self.config.weighting, self.prior.schedule.alphas_cumprod[t])
        return w[:, None, None, None]

    def observe(self, particle: int, render: Render, cameras: Cameras) -> None:
        """Receive the render of a training step before `loss`. Most methods need its latents alone and do nothing.

        Args:
            particle: Number of the particle.
            render: The render.
            cameras: Cameras of the views.
        """

    def sample_times(self, batch: int, progress: float, generator: torch.Generator | None = None) -> Times:
        """Sample the time steps of a training step.

        If the method has an option `annealed` and it is true, they are the upper bound of t, which decreases over the
        run.

        Args:
            batch: Number of samples.
            progress: Fraction of the run in [0, 1].
            generator: Source of the random numbers, on the CPU. If None, torch's global generator is used.

        Returns:
            Time steps, on the CPU.
        """
        time, length = self.config.time, self.prior.schedule.length
        if getattr(self.options, "annealed", False):
            return timesteps.upper_times(batch, time, progress, length)
        return timesteps.sample_times(batch, time, progress, length, generator)

    def score_difference(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Return the score difference eps_pretrained - eps_q.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            noise: The noise in `noisy`.
            cameras: Cameras of the views.

        Returns:
            The difference.
        """
        return self.pretrained(noisy, t, cameras) - self.predict_eps_q(noisy, t, noise, cameras)

    def loss(
        self, latents: Latents, cameras: Cameras, progress: float, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return a loss whose gradient with respect to the latents is the distillation gradient over the batch size.

        The value of the loss is half the squared norm of the distillation gradient, averaged over the batch. It
        measures the difference between the scores of the prior and the particles.

        Args:
            latents: Latents of the rendered views, which must require gradients.
            cameras: Cameras of the views.
            progress: Fraction of the run in [0, 1], which determines the range of t.
            generator: Source of the random time steps and noise, on the CPU. If None, torch's global generator is
                used.

        Returns:
            The loss.
        """
        self.progress = progress
        self.prior.observe(cameras.c2w)
        t = self.sample_times(len(latents), progress, generator)
        if self.prior.views_together > 1:
            t = t[:1].expand(len(t))
        noise = torch.randn(latents.shape, generator=generator)
        t, noise = t.to(latents.device, non_blocking=True), noise.to(latents, non_blocking=True)
        gradient = self.gradient(latents, cameras, t, noise, generator)
        target = (latents - gradient).detach()
        return (latents - target).square().sum() / (2 * len(latents))

    def pretrained(self, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
        """Predict eps_pretrained, with guidance if t is in `config.interval` and without guidance otherwise.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            cameras: Cameras of the views.

        Returns:
            The predicted noise eps_pretrained.
        """
        if self.config.interval is None:
            return self._compose(self, noisy, t, cameras)
        inside = self._in_interval(t, self.config.interval)
        if inside.all():
            return self._compose(self, noisy, t, cameras)
        rows, others = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        eps = torch.empty_like(noisy)
        eps[others] = self.conditional(noisy[others], t[others], cameras[others])
        if len(rows):
            eps[rows] = self._compose(self, noisy[rows], t[rows], cameras[rows])
        return eps

    def _in_interval(self, t: Times, interval: tuple[float, float]) -> Bool[Tensor, " batch"]:
        low, high = (end * self.prior.schedule.length for end in interval)
        return (t >= low) & (t <= high)

    def conditional(self, noisy: Latents, t: Times, cameras: Cameras) -> Latents:
        """Predict the noise for the prompt without classifier-free guidance.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            cameras: Cameras of the views, for view-dependent prompting.

        Returns:
            The predicted noise.
        """
        return self.predict(noisy, t, [self.embed_views(cameras)])[0]

    @torch.no_grad()
    def predict(self, noisy: Latents, t: Times, texts: list[TextEmbeddings]) -> tuple[Latents, ...]:
        """Predict the noise for several texts in one evaluation of the prior.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            texts: Embeddings of n texts, each with one row per view.

        Returns:
            The n predictions.
        """
        n = len(texts)
        return self.prior.predict_noise(torch.cat([noisy] * n), torch.cat([t] * n), torch.cat(texts)).chunk(n)

    def unconditional(self, noisy: Latents, t: Times) -> Latents:
        """Predict the noise for the empty text.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.

        Returns:
            The predicted noise.
        """
        return self.predict(noisy, t, [self.empty(len(noisy))])[0]

    def empty(self, batch: int) -> TextEmbeddings:
        """Embed the empty text.

        Args:
            batch: Number of rows.

        Returns:
            The same embedding in every row.
        """
        return self.prior.embed([""] * batch)

    def negative(self, batch: int) -> TextEmbeddings:
        """Embed the negative prompt.

        Args:
            batch: Number of rows.

        Returns:
            The same embedding in every row.
        """
        return self.prior.embed([self.config.negative_prompt] * batch)

    def embed_views(self, cameras: Cameras, text: str | None = None) -> TextEmbeddings:
        """Embed a text, with view-dependent prompting as configured.

        Args:
            cameras: Cameras of the views.
            text: The text, which is the prompt by default.

        Returns:
            One row per view.
        """
        text = self.prompt if text is None else text
        if self.config.view_prompts == "interpolated":
            return view_prompts.interpolated(self.prior, text, cameras)
        if not self.config.view_prompts:
            return self.prior.embed([text] * len(cameras))
        return view_prompts.embed(self.prior, text, self._view_words(cameras))

    def view_dependent_texts(self) -> list[str]:
        """Return the texts that the method passes to `embed_views`."""
        return [self.prompt]

    def _texts(self) -> list[str]:
        """Return the texts that the guidance embeds, with the words of views in steps of 5 degrees."""
        texts = {*self.view_dependent_texts(), self.config.negative_prompt, ""}
        if self.config.view_prompts:
            words = set(self._view_words(cameras_in_all_directions()))
            texts |= {f"{text}, {word}" for text in self.view_dependent_texts() for word in words}
        return sorted(texts)

    def train_score_network(
        self,
        latents: Latents,
        cameras: Cameras,
        step_generator: Callable[[str], torch.Generator] | None = None,
        measure: bool = False,
    ) -> dict[str, float]:
        """Train eps_q on the particles' latents. Methods without a score network do nothing.

        Args:
            latents: Latents of the rendered views.
            cameras: Cameras of the views.
            step_generator: Function that returns the random number generator of this step for a purpose, which it
                receives as a string such as "score 0". If None, torch's global generator is used.
            measure: Whether to compute metrics that need additional evaluations of the networks.

        Returns:
            Metrics by name.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return all state that training changes.

        Returns:
            A state that `load_state_dict` and `prolific_core.checkpoint` accept.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`.

        Args:
            state: The state.
        """
