"""eps_q: the prior's U-Net with a LoRA adapter (peft) and the camera added to the time embedding.

The U-Net is shared with the frozen prior where they have the same base. The adapter and the camera
are on only inside this model's own calls, so the prior's answers never change.
"""

import math
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prolific_core.config import ScoreConfig
from prolific_core.prior.latent_diffusion import LatentDiffusion

ADAPTER = "particles"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


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


class ScoreModel(nn.Module):
    """The particles' score. `base` is the frozen model it starts from (often the prior itself)."""

    def __init__(self, base: LatentDiffusion, config: ScoreConfig, *, generator: torch.Generator):
        super().__init__()
        # Not registered as submodules: the base is not this model's to save or to move.
        self._base = [base]
        self._layers = _add_adapter(base.unet, config, generator)
        self.camera = CameraEmbedding(base.unet.time_embedding.linear_2.out_features, generator).to(base.device)
        self._switch(False)

    @classmethod
    def on(cls, prior: LatentDiffusion, config: ScoreConfig, *, generator: torch.Generator) -> "ScoreModel":
        """A score model on the prior, or on `config.base` where the configuration names another."""
        base = prior
        if config.base is not None:
            dtype = str(prior.unet.dtype).removeprefix("torch.")
            base = LatentDiffusion.load(config.base, device=prior.device, dtype=dtype)
        return cls(base, config, generator=generator)

    @property
    def schedule(self):
        return self._base[0].schedule

    def embed(self, texts: list[str]) -> Tensor:
        return self._base[0].embed(texts)

    def forward(self, noisy: Tensor, t: Tensor, text: Tensor, c2w: Tensor, seen: Tensor | None = None) -> Tensor:
        """The network's raw output (eps or v). c2w (B, 4, 4); seen (B,) bool drops cameras."""
        unet = self._base[0].unet
        camera = self.camera(c2w.to(noisy.dtype))
        if seen is not None:
            camera = camera * seen[:, None]
        with self._active(camera):
            return unet(noisy.to(unet.dtype), t, encoder_hidden_states=text.to(unet.dtype)).sample.float()

    @torch.no_grad()
    def frozen(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The base's raw output: adapter and camera both off."""
        unet = self._base[0].unet
        return unet(noisy.to(unet.dtype), t, encoder_hidden_states=text.to(unet.dtype)).sample.float()

    def predict_noise(self, noisy: Tensor, t: Tensor, text: Tensor, c2w: Tensor) -> Tensor:
        return self.schedule.noise_from(self(noisy, t, text, c2w), noisy, t)

    def trainable(self) -> list[nn.Parameter]:
        return list(self._named().values())

    def trainable_state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._named().items()}

    @torch.no_grad()
    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self._named().items():
            parameter.copy_(state[name])

    def _named(self) -> dict[str, nn.Parameter]:
        named = {f"camera.{name}": p for name, p in self.camera.named_parameters()}
        for name, layer in self._layers.items():
            named[f"{name}.down"] = layer.lora_A[ADAPTER].weight
            named[f"{name}.up"] = layer.lora_B[ADAPTER].weight
        return named

    @contextmanager
    def _active(self, camera: Tensor):
        """Adapter on, camera added to the time embedding; both off again whatever happens."""
        time_embedding = self._base[0].unet.time_embedding
        hook = time_embedding.register_forward_hook(lambda module, args, out: out + camera.to(out.dtype))
        self._switch(True)
        try:
            yield
        finally:
            self._switch(False)
            hook.remove()

    def _switch(self, on: bool) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(on)
            # peft also freezes what it disables, and a backward pass after this one would add nothing.
            layer.lora_A[ADAPTER].weight.requires_grad_(True)
            layer.lora_B[ADAPTER].weight.requires_grad_(True)


def _add_adapter(unet: nn.Module, config: ScoreConfig, generator: torch.Generator) -> dict[str, nn.Module]:
    """Inject LoRA (Hu et al., 2106.09685) into the U-Net and return its layers by name.

    The down projection is drawn from `generator` (peft draws from the global one), the up projection
    is zero: q starts as the prior.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    kinds = (nn.Linear, nn.Conv2d)
    names = [name for name, module in unet.named_modules() if isinstance(module, kinds)]
    if config.targets == "attention":
        names = [name for name in names if name.endswith(ATTENTION)]
    settings = LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=names, bias="none")
    inject_adapter_in_model(settings, unet, adapter_name=ADAPTER)
    layers = {name: m for name, m in unet.named_modules() if isinstance(m, BaseTunerLayer) and ADAPTER in m.lora_A}
    for layer in layers.values():
        down = layer.lora_A[ADAPTER].weight
        with torch.no_grad():
            bound = 1 / math.sqrt(down[0].numel())
            down.copy_((torch.rand(down.shape, generator=generator) * 2 - 1) * bound)
        # Trained in full precision whatever the base's.
        layer.lora_A[ADAPTER].float()
        layer.lora_B[ADAPTER].float()
    return layers
