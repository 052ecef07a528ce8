"""Variational score distillation (ProlificDreamer, 2305.16213, algorithm 1): eps_q is learned.

All particles share one score model; it is trained on their renders with the denoising loss

    E || eps_q(alpha x_0 + sigma eps, t, c, y) - eps ||^2,  t ~ U[0, T)

one or more steps per particle step, alternating with them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from prolific_core.guidance.base import Guidance
from prolific_core.guidance.score_network.model import ScoreModel


@dataclass
class Pass:
    """One evaluation of q that its training can use: its output at (noisy, t), and the noise in there."""

    output: Tensor
    noisy: Tensor
    t: Tensor
    noise: Tensor


class VSD(Guidance):
    def __init__(self, prior, config, prompt, *, generator, score: ScoreModel | None = None):
        super().__init__(prior, config, prompt, generator=generator)
        self.score = score or ScoreModel.on(prior, config.score, generator=generator)
        rate, betas = config.score.learning_rate, config.score.betas
        self.optimizer = torch.optim.Adam(
            self.score.trainable(), lr=rate, betas=betas, fused=True
        )  # hundreds of small tensors
        self.trained = 0  # score steps taken
        self._shared: Pass | None = None

    def predict_eps_q(self, noisy, t, noise, cameras):
        # Once, conditionally: q has no guidance of its own, and its text has no view words.
        share = self.config.score.share_pass
        with torch.set_grad_enabled(share):
            output = self.score(noisy, t, self._text(len(noisy)), cameras.c2w)
        if share:
            self._shared = Pass(output, noisy, t, noise)
        return self.score.noise_from(output.detach(), noisy, t)

    def train_score_network(self, latents: Tensor, cameras, step_seed, measure: bool = False) -> dict[str, float]:
        latents, metrics = latents.detach(), {}
        for k in range(self.config.score.steps):
            done, self._shared = self._shared, None
            done = done or self._evaluate(latents, cameras.c2w, step_seed(f"score {k}"))
            metrics = self._learn(latents, done, measure and k == 0) | metrics
        return metrics

    def train_step(
        self, latents: Tensor, c2w: Tensor, generator: torch.Generator, measure: bool = False
    ) -> dict[str, float]:
        """One step of the denoising loss on latents (B, C, h, w) seen from c2w (B, 4, 4); see `_learn`."""
        return self._learn(latents, self._evaluate(latents, c2w, generator), measure)

    def _evaluate(self, latents: Tensor, c2w: Tensor, generator: torch.Generator) -> Pass:
        """q at times and noise of its own training's."""
        batch, schedule = len(latents), self.score.schedule
        t = torch.randint(schedule.length, (batch,), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        seen = torch.rand(batch, generator=generator) >= self.config.score.camera_dropout
        noisy = schedule.add_noise(latents, noise, t)
        return Pass(self.score(noisy, t, self._text(batch), c2w, seen.to(latents.device)), noisy, t, noise)

    def _learn(self, latents: Tensor, done: Pass, measure: bool) -> dict[str, float]:
        """One step of the denoising loss, in the score model's own parameterisation (eps or v).

        Returns score_loss and, where `measure` asks for it, score_gain: the loss over the frozen
        base's on the same renders, noise and text. At 1 the score model has learned nothing of the
        particles, and VSD is only (scale - 1) (cond - uncond).
        """
        target = self.score.target(latents, done.noise, done.t)
        loss = mse_loss(done.output, target)
        metrics = {"score_loss": loss.item()}
        if measure:
            frozen = self.score.frozen(done.noisy, done.t, self._text(len(latents)))
            metrics["score_gain"] = metrics["score_loss"] / mse_loss(frozen, target).item()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.score.learning_rate * min(
                1.0, (self.trained + 1) / max(1, self.config.score.warmup)
            )
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(loss, target.numel())
        self.optimizer.step()
        self.trained += 1
        self.score.changed()
        return metrics

    def _backward(self, loss: Tensor, count: int) -> None:
        if self.score.base.dtype != torch.float16:
            loss.backward()
            return
        # The gradient of a mean over thousands of numbers is below what float16 can hold.
        (loss * count).backward()
        for parameter in self.score.trainable():
            if parameter.grad is not None:
                parameter.grad /= count

    def _text(self, batch: int) -> Tensor:
        return self.score.embed([self.prompt] * batch)

    def state_dict(self) -> dict:
        return {
            "score": self.score.trainable_state(),
            "optimizer": self.optimizer.state_dict(),
            "trained": self.trained,
        }

    def load_state_dict(self, state: dict) -> None:
        self.score.load_trainable_state(state["score"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.trained = state["trained"]
