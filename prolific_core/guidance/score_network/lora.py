"""LoRA (Hu et al., arXiv 2106.09685) with peft, which replaces some weights W of a U-Net with W + B A.

The adapter is attached to a copy of the U-Net's module tree that shares all tensors with the original. The prior is
therefore never modified. Existing adapters of the prior, such as a user's LoRA, stay active in both.

peft evaluates W, A and B separately in many small layers, which roughly doubles the time of a call. In full precision,
W + B A is therefore computed once per training step and used as the weight in a second copy of the module tree. This
copy computes the same function up to rounding errors and is as fast as the U-Net without LoRA. In half precision,
rounding W + B A would discard most of B A, so that the second copy evaluates W, A and B separately (`low_rank.py`).
"""

import copy
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from prolific_core.config import ScoreConfig
from prolific_core.errors import InputError
from prolific_core.guidance.score_network import low_rank
from prolific_core.prior.latent_diffusion import UNet

ADAPTER = "particles"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Factors(NamedTuple):
    """Trained factors of one layer.

    Attributes:
        down: Matrix A, with `rank` rows.
        up: Matrix B, with `rank` columns.
    """

    down: nn.Parameter
    up: nn.Parameter


if TYPE_CHECKING:

    class PeftLayer(nn.Module):
        """Interface of peft's LoRA layers, which lack precise type annotations."""

        lora_A: dict[str, nn.Linear | nn.Conv2d]
        lora_B: dict[str, nn.Linear | nn.Conv2d]
        active_adapters: list[str]

        def set_adapter(self, adapter_names: list[str]) -> None:
            """Activate the given adapters and deactivate all others."""
else:
    PeftLayer = nn.Module


def copy_sharing_tensors(module: AnyModule) -> AnyModule:
    """Copy a module tree without copying its tensors.

    Args:
        module: The module to copy.

    Returns:
        A copy that shares every parameter and buffer with `module`.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    copied = copy.deepcopy(module, shared)
    if module._compiled_call_impl is not None:  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        copied.compile()  # pyright: ignore[reportUnknownMemberType]
    return copied


class Lora:
    """U-Net with LoRA in some of its layers.

    Args:
        unet: The frozen U-Net, which is not modified.
        config: Parameters of the score network.
        generator: Source of the random initial weights.

    Attributes:
        unet: The U-Net to call.
        adapted: Copy of the original module tree that contains peft's layers.
        layers: Trained factors of the adapted layers by layer name.
        parameters: The same factors by parameter name.
        merged: Tensors that are derived from the factors: the weights W + B A of the adapted layers or, in half
            precision, the factors in the U-Net's data type.
    """

    def __init__(self, unet: UNet, config: ScoreConfig, generator: torch.Generator):
        self.adapted = copy_sharing_tensors(unet)
        self.layers = _add_adapter(self.adapted, config, generator)
        self.parameters: dict[str, nn.Parameter] = {}
        for name, (down, up) in self.layers.items():
            self.parameters |= {f"{name}.down": down, f"{name}.up": up}
        self.unet = copy_sharing_tensors(unet)
        self._merged: list[MergedWeight] = []
        self._cast: list[low_rank.CastFactor] = []
        if unet.dtype in (torch.float32, torch.float64):
            self._merged = [MergedWeight(self.unet, name, factors) for name, factors in self.layers.items()]
        else:
            self._cast = [one for name, factors in self.layers.items() for one in _attach(self.unet, name, factors)]
        self.merged = [layer.weight for layer in self._merged] + [one.value for one in self._cast]
        self.refresh()

    def refresh(self) -> None:
        """Recompute the derived tensors. Call this method after every change of the parameters."""
        for layer in self._merged:
            layer.write()
        low_rank.write(self._cast)


class MergedWeight:
    """Tensor W + B A that replaces the weight W of one layer.

    Once the backward pass has computed the gradient G of this tensor, the gradients of the factors are set to
    dA = B^T G and dB = G A^T. This is faster than autograd, which would allocate all merged weights again in every
    step.

    Args:
        unet: The U-Net whose layer is changed.
        name: Name of the layer.
        factors: Trained factors of the layer.
    """

    def __init__(self, unet: UNet, name: str, factors: Factors):
        module = cast("nn.Linear | nn.Conv2d", _base_layer(unet.get_submodule(name)))
        self.base = module.weight
        self.down, self.up = factors
        self.weight = self.base.detach().clone(memory_format=torch.contiguous_format).requires_grad_(True)
        del module.weight
        module.weight = self.weight  # a plain tensor instead of a parameter, so that it is neither saved nor trained
        low_rank.call_after_gradient(self.weight, self._pass_on)

    @torch.no_grad()
    def write(self) -> None:
        """Compute W + B A and write the result into the merged weight."""
        flat = self.weight.copy_(self.base).view(len(self.base), -1)
        flat.addmm_(self.up.flatten(1), self.down.flatten(1))

    @torch.no_grad()
    def _pass_on(self) -> None:
        gradient, self.weight.grad = cast(Tensor, self.weight.grad).flatten(1), None
        _accumulate(self.down, self.up.flatten(1).T @ gradient)
        _accumulate(self.up, gradient @ self.down.flatten(1).T)


def _attach(unet: UNet, name: str, factors: Factors) -> list[low_rank.CastFactor]:
    """Replace a layer of a U-Net in half precision by one with LoRA, and return its factors."""
    layer = unet.get_submodule(name)
    original = cast("nn.Linear | nn.Conv2d", _base_layer(layer))
    down, up = (low_rank.CastFactor(factor, original.weight.dtype) for factor in factors)
    unet.set_submodule(name, low_rank.LowRankLayer(layer, original, down.value, up.value))
    return [down, up]


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    gradient = gradient.view_as(parameter)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _base_layer(module: nn.Module) -> nn.Module:
    """Return the original layer of a module that another adapter may have wrapped."""
    return cast(Any, module).get_base_layer() if hasattr(module, "get_base_layer") else module


def _modules(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return the named modules of a tree, with the type annotation that `named_modules` lacks."""
    return cast("Iterator[tuple[str, nn.Module]]", unet.named_modules())


def _peft_layers(unet: nn.Module) -> dict[str, PeftLayer]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: cast(PeftLayer, module) for name, module in _modules(unet) if isinstance(module, BaseTunerLayer)}


def _add_adapter(unet: UNet, config: ScoreConfig, generator: torch.Generator) -> dict[str, Factors]:
    """Inject the adapter, keep existing adapters active, and return the new factors by layer.

    A is drawn from `generator` instead of the global generator that peft uses. B is zero, so that the network initially
    equals its base.
    """
    from peft import LoraConfig, inject_adapter_in_model

    active = {name: list(layer.active_adapters) for name, layer in _peft_layers(unet).items()}
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.rank, target_modules=_targets(unet, config, list(active)), bias="none"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns about existing adapters, which are supported here
        inject_adapter_in_model(settings, unet, adapter_name=ADAPTER)
    ours: dict[str, PeftLayer] = {}
    for name, layer in _peft_layers(unet).items():
        if ADAPTER in layer.lora_A:
            ours[name] = layer
        # Reactivate the existing adapters, which peft deactivates when it injects a new one.
        layer.set_adapter([*active.get(name, []), *([ADAPTER] if name in ours else [])])
    unet.requires_grad_(False)
    factors: dict[str, Factors] = {}
    dtype = torch.promote_types(torch.float32, unet.dtype)  # factors are trained in full precision
    for name, layer in ours.items():
        down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        for projection in (down, up):
            projection.to(dtype).requires_grad_(True)
        with torch.no_grad():
            down.weight.copy_(_initial(down.weight, config, generator))
        factors[name] = Factors(cast(nn.Parameter, down.weight), cast(nn.Parameter, up.weight))
    return factors


def _initial(down: Tensor, config: ScoreConfig, generator: torch.Generator) -> Tensor:
    """Draw the initial values of a down projection; see `ScoreConfig.initialisation`."""
    if config.initialisation == "gaussian":
        return torch.randn(down.shape, generator=generator) / config.rank
    bound = 1 / math.sqrt(down[0].numel())
    return (torch.rand(down.shape, generator=generator) * 2 - 1) * bound


def _targets(unet: nn.Module, config: ScoreConfig, wrapped: list[str]) -> list[str]:
    """Return the names of the layers to adapt, excluding those inside existing adapters."""
    names = [
        name
        for name, module in _modules(unet)
        if isinstance(_base_layer(module), (nn.Linear, nn.Conv2d))
        and not any(name.startswith(f"{other}.") for other in wrapped)
    ]
    if config.targets == "all":
        return names
    endings = ATTENTION if config.targets == "attention" else config.targets
    chosen = [name for name in names if any(name == ending or name.endswith(f".{ending}") for ending in endings)]
    if not chosen:
        kinds = sorted({name.split(".")[-1] for name in names if not name.split(".")[-1].isdigit()})
        raise InputError(
            f"guidance.score.targets = {list(endings)}: must contain endings of the U-Net's layer names: "
            f"{', '.join(kinds)}"
        )
    return chosen
