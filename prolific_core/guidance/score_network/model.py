"""Score network of VSD, either LoRA on the prior's U-Net or a small U-Net, with a camera embedding.

The prior's U-Net is never modified. The adapter and the camera embedding are attached to a copy of its module tree.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prolific_core.config import ScoreConfig
from prolific_core.errors import InputError
from prolific_core.guidance.score_network import small_unet
from prolific_core.guidance.score_network.lora import Lora
from prolific_core.prior.kinds import load_prior
from prolific_core.prior.latent_diffusion import LatentDiffusion, UNet
from prolific_core.prior.noise_schedule import Latents, TextEmbeddings, Times


class CameraEmbedding(nn.Module):
    """MLP that maps camera-to-world matrices to embeddings of the same width as the time embedding.

    The last layer is initialised to zero, so that the camera has no influence before training.

    Args:
        width: Width of the time embedding.
        generator: Source of the random initial weights.
    """

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.first, self.last = nn.Linear(16, width), nn.Linear(width, width)
        with torch.no_grad():
            for parameter in self.first.parameters():
                parameter.uniform_(-0.25, 0.25, generator=generator)  # 1/sqrt(16), the bound that torch uses
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, c2w: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch width"]:
        """Embed cameras.

        Args:
            c2w: Camera-to-world matrices.

        Returns:
            Embeddings that are added to the time embedding.
        """
        return self.last(nn.functional.silu(self.first(c2w.flatten(1))))


class ScoreModel:
    """Score network that predicts eps_q or v_q from noisy latents, time, text and camera.

    Args:
        base: The frozen model that the network starts from, usually the prior.
        config: Parameters of the score network.
        generator: Source of the random initial weights. If None, torch's global generator is used.

    Attributes:
        base: The frozen model.
        schedule: Noise schedule of the base.
        prediction: Prediction type of the training loss, to which the network's output is converted if needed.
        camera: The camera embedding.
    """

    def __init__(self, base: LatentDiffusion, config: ScoreConfig, *, generator: torch.Generator | None = None):
        self.base, self.schedule = base, base.schedule
        small = config.kind == "unet"
        if generator is None:  # The draws below would not advance the global generator, whose state is restored.
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        # Restore the global generator's state afterwards, because the constructors of new layers draw from it.
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            self._network = (small_unet.SmallScoreUNet if small else Lora)(base.unet, config, generator)
            embedding = self._network.unet.time_embedding
            self.camera = CameraEmbedding(embedding.linear_2.out_features, generator)
        self.camera.to(base.device, torch.promote_types(torch.float32, base.dtype))
        self._dtype = self._network.unet.dtype
        self._output = small_unet.PREDICTION if small else self.schedule.prediction
        self.prediction = config.prediction or self._output
        self._shift = torch.empty(0)  # camera embedding that the current call adds to the time embedding

        # The hook is a local function, because a copy of the module tree would also copy the object to which a method
        # is bound.
        def add_shift(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + self._shift.to(output.dtype)

        embedding.register_forward_hook(add_shift)
        named = {f"camera.{name}": parameter for name, parameter in self.camera.named_parameters()}
        self._parameters: dict[str, nn.Parameter] = named | self._network.parameters

    @classmethod
    def from_prior(
        cls, prior: LatentDiffusion, config: ScoreConfig, *, generator: torch.Generator | None = None
    ) -> "ScoreModel":
        """Create a score network from the prior, or from the model `config.base` if it is set.

        Args:
            prior: The diffusion model that is distilled.
            config: Parameters of the score network.
            generator: Source of the random initial weights. If None, torch's global generator is used.

        Returns:
            The score network.

        Raises:
            InputError: The base is of another kind than the prior, so that its latents differ.
        """
        base = prior
        if config.base is not None:
            base = load_prior(
                config.base,
                device=prior.device,
                dtype=str(prior.dtype).removeprefix("torch."),
                gradient_checkpointing=prior.unet.is_gradient_checkpointing,
                torch_compile=prior.is_compiled,
                key="guidance.score.base",
            )
            if type(base) is not type(prior):
                raise InputError(
                    f"guidance.score.base: {config.base} must be a model of the same kind as prior.path, whose latents "
                    "it gets; set it to null to start from the prior"
                )
        return cls(base, config, generator=generator)

    def embed(self, texts: list[str]) -> TextEmbeddings:
        """Embed texts with the base's text encoder.

        Args:
            texts: The texts.

        Returns:
            One row per text.
        """
        return self.base.embed(texts)

    def __call__(
        self,
        noisy: Latents,
        t: Times,
        text: TextEmbeddings,
        c2w: Float[Tensor, "batch 4 4"],
        has_camera: Bool[Tensor, " batch"] | None = None,
    ) -> Latents:
        """Evaluate the network.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            text: Text embeddings.
            c2w: Camera-to-world matrices.
            has_camera: Mask of the rows that use a camera embedding; the others use zero. None selects all rows.

        Returns:
            The predicted eps or v, as `prediction` specifies.
        """
        self._shift = self.camera(c2w.to(self.camera.first.weight.dtype))
        if has_camera is not None:
            self._shift = self._shift * has_camera[:, None]
        output = self.unet(noisy.to(self._dtype), t, **self.conditions(text, c2w)).sample
        output = output.to(noisy.dtype)
        self._shift = torch.empty(0)  # release the autograd graph of the camera embedding
        if self._output == self.prediction:
            return output
        noise = self.schedule.noise_from(output, noisy, t, self._output)
        return self.schedule.output_from(noise, noisy, t, self.prediction)

    def conditions(self, text: TextEmbeddings, c2w: Float[Tensor, "batch 4 4"]) -> dict[str, Any]:
        """Return the named inputs of the network's U-Net; see `LatentDiffusion.conditions`.

        Args:
            text: Text embeddings.
            c2w: Camera-to-world matrices.

        Returns:
            The conditions of the base, in the data type of the network. The small U-Net ignores them.
        """
        return tree_map_only(Tensor, lambda tensor: tensor.to(self._dtype), self.base.conditions(text, c2w))

    @torch.no_grad()
    def frozen(self, noisy: Latents, t: Times, text: TextEmbeddings) -> Latents:
        """Evaluate the frozen base without the adapter and the camera embedding.

        Args:
            noisy: Noisy latents x_t.
            t: Time steps.
            text: Text embeddings.

        Returns:
            The predicted eps or v, as `prediction` specifies.
        """
        return self.schedule.output_from(self.base.predict_noise(noisy, t, text), noisy, t, self.prediction)

    def noise_from(self, output: Latents, noisy: Latents, t: Times) -> Latents:
        """Convert the network's prediction to noise.

        Args:
            output: The predicted eps or v.
            noisy: Noisy latents x_t.
            t: Time steps.

        Returns:
            The predicted eps.
        """
        return self.schedule.noise_from(output, noisy, t, self.prediction)

    def target(self, latents: Latents, noise: Latents, t: Times) -> Latents:
        """Return the training target of the network's prediction.

        Args:
            latents: Clean latents x_0.
            noise: Standard normal noise.
            t: Time steps.

        Returns:
            eps or v, as `prediction` specifies.
        """
        return self.schedule.target(latents, noise, t, self.prediction)

    @property
    def unet(self) -> UNet:
        """The U-Net that `__call__` evaluates."""
        return self._network.unet

    def merged(self) -> list[Tensor]:
        """Return the weights with merged LoRA, which are stored in addition to the parameters.

        Returns:
            One tensor per adapted layer, or an empty list if weights are not merged.
        """
        return self._network.merged

    def refresh(self) -> None:
        """Recompute the merged weights. Call this method after every change of the parameters."""
        self._network.refresh()

    def trainable(self) -> list[nn.Parameter]:
        """Return the trained parameters.

        Returns:
            The parameters of the camera embedding and the network.
        """
        return list(self._parameters.values())

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the trained parameters by name.

        Returns:
            Detached tensors that share memory with the parameters.
        """
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `trainable_state`.

        Args:
            state: Values of all trained parameters by name.
        """
        for name, parameter in self._parameters.items():
            parameter.copy_(state[name])
        self.refresh()
