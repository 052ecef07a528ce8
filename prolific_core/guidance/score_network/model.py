"""eps_q: the particles' score. LoRA on the prior's U-Net (or a small one of its own), and the camera.

The prior's own U-Net is never touched: the adapter and the camera are on a copy of its module tree.
"""

import torch
from torch import Tensor, nn

from prolific_core.config import ScoreConfig
from prolific_core.guidance.score_network import small_unet
from prolific_core.guidance.score_network.lora import Lora
from prolific_core.prior.latent_diffusion import LatentDiffusion


class CameraEmbedding(nn.Module):
    """16 numbers of camera-to-world -> Linear-SiLU-Linear -> time-embedding width.

    The last layer starts at zero, so that q begins as the prior.
    """

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.first, self.last = nn.Linear(16, width), nn.Linear(width, width)
        with torch.no_grad():
            for parameter in self.first.parameters():
                parameter.uniform_(-0.25, 0.25, generator=generator)  # 1/sqrt(16), torch's own bound
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, c2w: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.first(c2w.flatten(1))))


class ScoreModel:
    """The particles' score. `base` is the frozen model it starts from (often the prior itself).

    `prediction` says in what q is trained (eps or v); the network's own output is converted to it.
    """

    def __init__(self, base: LatentDiffusion, config: ScoreConfig, *, generator: torch.Generator):
        self.base, self.schedule = base, base.schedule
        own = config.kind == "unet"
        with torch.random.fork_rng(devices=[]):  # new layers draw from the global generator, before ours fills them
            self._network = (small_unet.SmallScoreUNet if own else Lora)(base.unet, config, generator)
            embedding = self._network.unet.time_embedding
            self.camera = CameraEmbedding(embedding.linear_2.out_features, generator)
        self.camera.to(base.device, torch.promote_types(torch.float32, base.dtype))
        self._dtype = self._network.unet.dtype
        self._output = small_unet.PREDICTION if own else self.schedule.prediction
        self.prediction = config.prediction or self._output
        self._shift: Tensor | None = None  # of the time embedding, by the camera of the call under way
        embedding.register_forward_hook(lambda module, arguments, out: out + self._shift.to(out.dtype))
        named = {f"camera.{name}": parameter for name, parameter in self.camera.named_parameters()}
        self._parameters: dict[str, nn.Parameter] = named | self._network.parameters

    @classmethod
    def on(cls, prior: LatentDiffusion, config: ScoreConfig, *, generator: torch.Generator) -> "ScoreModel":
        """A score model on the prior, or on `config.base` where the configuration names another."""
        base = prior
        if config.base is not None:
            dtype = str(prior.dtype).removeprefix("torch.")
            checkpointing = prior.unet.is_gradient_checkpointing
            base = LatentDiffusion.load(
                config.base, device=prior.device, dtype=dtype, gradient_checkpointing=checkpointing
            )
        return cls(base, config, generator=generator)

    def embed(self, texts: list[str]) -> Tensor:
        return self.base.embed(texts)

    def __call__(self, noisy: Tensor, t: Tensor, text: Tensor, c2w: Tensor, seen: Tensor | None = None) -> Tensor:
        """q's output (eps or v, by `prediction`). c2w (B, 4, 4); seen (B,) bool drops cameras."""
        unet = self._network.unet
        self._shift = self.camera(c2w.to(self.camera.first.weight.dtype))
        if seen is not None:
            self._shift = self._shift * seen[:, None]
        output = unet(noisy.to(self._dtype), t, encoder_hidden_states=text.to(self._dtype)).sample.to(noisy.dtype)
        self._shift = None
        return self._convert(output, self._output, noisy, t)

    @torch.no_grad()
    def frozen(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The base's output in q's terms: adapter and camera both off."""
        return self.schedule.output_from(self.base.predict_noise(noisy, t, text), noisy, t, self.prediction)

    def noise_from(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """eps from q's output."""
        return self.schedule.noise_from(output, noisy, t, self.prediction)

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What q is trained to put out."""
        return self.schedule.target(latents, noise, t, self.prediction)

    def _convert(self, output: Tensor, prediction: str, noisy: Tensor, t: Tensor) -> Tensor:
        if prediction == self.prediction:
            return output
        noise = self.schedule.noise_from(output, noisy, t, prediction)
        return self.schedule.output_from(noise, noisy, t, self.prediction)

    @property
    def unet(self) -> nn.Module:
        """The U-Net that is called."""
        return self._network.unet

    def merged(self) -> list[Tensor]:
        """What is kept beside the parameters: weights with LoRA written in."""
        return self._network.merged

    def changed(self) -> None:
        """To be called after every change of the parameters."""
        self._network.changed()

    def trainable(self) -> list[nn.Parameter]:
        return list(self._parameters.values())

    def trainable_state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(state[name])
        self.changed()
