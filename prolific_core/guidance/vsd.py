"""Variational score distillation (ProlificDreamer, arXiv 2305.16213, algorithm 1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import mse_loss

from prolific_core.cameras import Cameras
from prolific_core.config import GuidanceConfig
from prolific_core.guidance.base import Guidance
from prolific_core.guidance.score_network.model import ScoreModel
from prolific_core.nonfinite import NonFiniteSteps, largest_gradient
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.noise_schedule import Latents, TextEmbeddings, Times


@dataclass
class ForwardPass:
    """Inputs and output of an evaluation of the score network, which a training step can reuse.

    Attributes:
        output: Output of the network.
        noisy: Noisy latents x_t.
        t: Time steps.
        noise: The noise in `noisy`.
    """

    output: Latents
    noisy: Latents
    t: Times
    noise: Latents


class VSD(Guidance):
    """Variational score distillation, in which eps_q is a score network trained on the particles' renders.

    All particles share one score network. It is trained with the denoising loss

        E || eps_q(alpha x_0 + sigma eps, t, c, y) - eps ||^2,  t ~ U[0, T)

    in one or more training steps after each particle step.

    Args:
        prior: The diffusion model to distil.
        config: Parameters of the guidance.
        prompt: Text of the prompt, which is inserted into the template `config.prompt`.
        generator: Source of the random numbers that initialise the score network. If None, torch's global generator is
            used.
        score: The score network; if None, it is created from `config.score`.
    """

    def __init__(
        self,
        prior: LatentDiffusion,
        config: GuidanceConfig,
        prompt: str,
        *,
        generator: torch.Generator | None = None,
        score: ScoreModel | None = None,
    ):
        super().__init__(prior, config, prompt, generator=generator)
        if score is None:
            score = ScoreModel.from_prior(prior, config.score, generator=generator)
            if score.base is not prior:
                score.base.keep_only_unet([self.prompt])
        self.score = score
        rate, betas, decay = config.score.learning_rate, config.score.betas, config.score.weight_decay
        # The fused implementation is faster for hundreds of small tensors.
        self.optimizer = torch.optim.AdamW(self.score.trainable(), lr=rate, betas=betas, weight_decay=decay, fused=True)
        self.trained = 0  # number of completed training steps
        self._skipped = NonFiniteSteps(
            "the score network", "lower guidance.score.learning_rate, or set prior.dtype to bfloat16 or float32"
        )
        self._shared: ForwardPass | None = None

    def predict_eps_q(self, noisy: Latents, t: Times, noise: Latents, cameras: Cameras) -> Latents:
        """Predict eps_q without guidance and without view-dependent prompting; see `Guidance.predict_eps_q`."""
        share = self.config.score.share_pass
        with torch.set_grad_enabled(share):
            output = self.score(noisy, t, self._text(len(noisy)), cameras.c2w)
        if share:
            self.score.base.observe(cameras.c2w)  # for the metrics of the training step that uses this pass
            self._shared = ForwardPass(output, noisy, t, noise)
        return self.score.noise_from(output.detach(), noisy, t)

    def train_score_network(
        self,
        latents: Latents,
        cameras: Cameras,
        step_generator: Callable[[str], torch.Generator] | None = None,
        measure: bool = False,
    ) -> dict[str, float]:
        """Train the score network for `config.score.steps` steps; see `Guidance.train_score_network`.

        Returns:
            The metrics of `train_step` for the first step.
        """
        latents = latents.detach()
        metrics: dict[str, float] = {}
        for k in range(self.config.score.steps):
            shared, self._shared = self._shared, None
            forward = shared
            if forward is None:
                generator = step_generator(f"score {k}") if step_generator else None
                forward = self._evaluate(latents, cameras.c2w, generator)
            metrics = self._learn(latents, forward, measure and k == 0) | metrics
        return metrics

    def train_step(
        self,
        latents: Latents,
        c2w: Float[Tensor, "batch 4 4"],
        generator: torch.Generator | None = None,
        measure: bool = False,
    ) -> dict[str, float]:
        """Perform one training step with the denoising loss.

        Args:
            latents: Latents of the rendered views.
            c2w: Camera-to-world matrices of the views.
            generator: Source of the random time steps, noise and camera dropout, on the CPU. If None, torch's global
                generator is used.
            measure: Whether to compute `score_gain`.

        Returns:
            Metrics by name. `score_loss` is the loss in the network's parameterisation (eps or v). If `measure` is set,
            `score_gain` is the ratio of this loss to the loss of the frozen base for the same inputs. A ratio of 1
            means that the network has not adapted to the particles, in which case the VSD gradient is only
            w(t) (scale - 1) (cond - uncond). A step whose loss or gradient is not finite changes nothing;
            `score_skipped_steps`, which is present once there was such a step, is their number.
        """
        return self._learn(latents, self._evaluate(latents, c2w, generator), measure)

    def _evaluate(
        self, latents: Latents, c2w: Float[Tensor, "batch 4 4"], generator: torch.Generator | None
    ) -> ForwardPass:
        """Evaluate the score network with random time steps and noise."""
        batch, schedule = len(latents), self.score.schedule
        t = torch.randint(schedule.length, (batch,), generator=generator).to(latents.device, non_blocking=True)
        if self.score.base.views_together > 1:
            self.score.base.observe(c2w)
            t = t[:1].expand(batch)
        noise = torch.randn(latents.shape, generator=generator).to(latents, non_blocking=True)
        has_camera: Bool[Tensor, " batch"] = torch.rand(batch, generator=generator) >= self.config.score.camera_dropout
        noisy = schedule.add_noise(latents, noise, t)
        has_camera = has_camera.to(latents.device, non_blocking=True)
        output = self.score(noisy, t, self._text(batch), c2w, has_camera)
        return ForwardPass(output, noisy, t, noise)

    def _learn(self, latents: Latents, forward: ForwardPass, measure: bool) -> dict[str, float]:
        """Perform one training step from a forward pass and return its metrics; see `train_step`."""
        target = self.score.target(latents, forward.noise, forward.t)
        loss = mse_loss(forward.output, target)
        losses = [loss.detach()]
        if measure:
            frozen = self.score.frozen(forward.noisy, forward.t, self._text(len(latents)))
            losses.append(mse_loss(frozen, target))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.score.learning_rate * min(
                1.0, (self.trained + 1) / max(1, self.config.score.warmup)
            )
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(loss, target.numel())
        # All values are read at once, so that the host waits for the GPU only once.
        numbers = torch.stack([*losses, largest_gradient(self.score.trainable())])
        values = cast("list[float]", numbers.tolist())  # pyright: ignore[reportUnknownMemberType]
        if not self._skipped.must_skip([values[0], values[-1]]):
            self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            self.trained += 1
            self.score.refresh()
        metrics = {"score_loss": values[0]}
        if measure:
            metrics["score_gain"] = values[0] / values[1]
        if self._skipped.total:
            metrics["score_skipped_steps"] = float(self._skipped.total)
        return metrics

    def _backward(self, loss: Float[Tensor, ""], count: int) -> None:
        """Backpropagate a mean over `count` elements, with loss scaling in float16.

        A gradient of the mean would underflow. A gradient of the sum would overflow in the LoRA factors, which add over
        all pixels. The scale is the geometric mean of the two.
        """
        if self.score.base.dtype != torch.float16:
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            return
        scale = count**0.5
        (loss * scale).backward()  # pyright: ignore[reportUnknownMemberType]
        for parameter in self.score.trainable():
            if parameter.grad is not None:
                parameter.grad /= scale

    def _text(self, batch: int) -> TextEmbeddings:
        return self.score.embed([self.prompt] * batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the score network's parameters and optimizer state; see `Guidance.state_dict`."""
        return {
            "score": self.score.trainable_state(),
            "optimizer": self.optimizer.state_dict(),
            "trained": self.trained,
            "skipped": self._skipped.total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`; see `Guidance.load_state_dict`."""
        self.score.load_trainable_state(state["score"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.trained, self._skipped.total = state["trained"], state["skipped"]
