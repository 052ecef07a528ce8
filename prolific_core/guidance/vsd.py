"""Variational score distillation (ProlificDreamer, 2305.16213, algorithm 1): eps_q is learned.

All particles share one score model; it is trained on their renders with the denoising loss

    E || eps_q(alpha x_0 + sigma eps, t, c, y) - eps ||^2,  t ~ U[0, T)

one or more steps per particle step, alternating with them.
"""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from prolific_core.guidance.distillation import Guidance
from prolific_core.guidance.score_model import ScoreModel


class Estimator(Guidance):
    def __init__(self, prior, config, prompt, *, generator):
        super().__init__(prior, config, prompt, generator=generator)
        self.score = ScoreModel.on(prior, config.score, generator=generator)
        self.optimizer = torch.optim.Adam(self.score.trainable(), lr=config.score.learning_rate)

    @torch.no_grad()
    def particle_noise(self, noisy, t, noise, cameras):
        # Once, conditionally: q has no guidance of its own, and its text has no view words.
        return self.score.predict_noise(noisy, t, self._text(len(noisy)), cameras.c2w)

    def follow(self, latents: Tensor, cameras, step_seed, measure: bool = False) -> dict[str, float]:
        latents, measures = latents.detach(), {}
        for k in range(self.config.score.steps):
            measures = self.train_step(latents, cameras.c2w, step_seed(f"score {k}"), measure and k == 0) | measures
        return measures

    def train_step(
        self, latents: Tensor, c2w: Tensor, generator: torch.Generator, measure: bool = False
    ) -> dict[str, float]:
        """One step of the denoising loss, in the score model's own parameterisation (eps or v).

        Returns score_loss and, where `measure` asks for it, score_gain: the loss over the frozen
        base's on the same renders, noise and text. At 1 the score model has learned nothing of the
        particles, and VSD is only (scale - 1) (cond - uncond).
        """
        batch, schedule = len(latents), self.score.schedule
        t = torch.randint(schedule.length, (batch,), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        seen = torch.rand(batch, generator=generator) >= self.config.score.camera_dropout
        noisy = schedule.add_noise(latents, noise, t)
        text, target = self._text(batch), schedule.target(latents, noise, t)
        loss = mse_loss(self.score(noisy, t, text, c2w, seen.to(latents.device)), target)
        measures = {"score_loss": loss.item()}
        if measure:
            measures["score_gain"] = measures["score_loss"] / mse_loss(self.score.frozen(noisy, t, text), target).item()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return measures

    def _text(self, batch: int) -> Tensor:
        return self.score.embed([self.prompt] * batch)

    def state_dict(self) -> dict:
        return {"score": self.score.trainable_state(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.score.load_trainable_state(state["score"])
        self.optimizer.load_state_dict(state["optimizer"])
