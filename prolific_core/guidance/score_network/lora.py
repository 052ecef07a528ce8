"""LoRA (Hu et al., 2106.09685) through peft: W + B A in place of some of a U-Net's weights W.

The adapter lives on a copy of the U-Net's module tree which shares every tensor with it, so the prior
itself is never touched, and what else it carries (a user's own LoRA) stays on in both.

peft calls W, A and B one after another, on many small layers, which about doubles the time of a call.
In full precision W + B A is written down once per step instead, and a second copy of the tree is called
with it: the same parameters and function, equal to rounding, at the bare U-Net's speed. In half
precision peft's own forward is called: B A would drown in W's rounding.
"""

import copy
import math
import warnings

import torch
from torch import Tensor, nn

from prolific_core.config import ScoreConfig
from prolific_core.errors import InputError

ADAPTER = "particles"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def copy_sharing_tensors(module: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every parameter and buffer with the original."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    copy_sharing_tensors = copy.deepcopy(module, shared)
    if module._compiled_call_impl is not None:
        copy_sharing_tensors.compile()
    return copy_sharing_tensors


class Lora:
    """`unet`, the adapted U-Net to call, and `parameters`, what is trained in it, by name.

    Call `changed` after every change of the parameters. `adapted` is the tree with peft's `layers` in it.
    """

    def __init__(self, unet: nn.Module, config: ScoreConfig, generator: torch.Generator):
        self.adapted = copy_sharing_tensors(unet)
        self.layers = _add_adapter(self.adapted, config, generator)
        self.parameters: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            self.parameters[f"{name}.down"] = layer.lora_A[ADAPTER].weight
            self.parameters[f"{name}.up"] = layer.lora_B[ADAPTER].weight
        whole = unet.dtype in (torch.float32, torch.float64)
        self.unet = copy_sharing_tensors(unet) if whole else self.adapted
        self._merged = [Merged(self.unet, name, layer) for name, layer in self.layers.items()] if whole else []
        self.merged = [layer.weight for layer in self._merged]
        self.changed()

    def changed(self) -> None:
        for merged in self._merged:
            merged.write()


class Merged:
    """One layer's W + B A, written into a tensor that stands in W's place.

    Its gradient G is passed on as soon as a backward pass has it: dA = B^T G, dB = G A^T. (By hand,
    because through autograd every step would allocate all of them anew, which costs as much again.)
    """

    def __init__(self, unet: nn.Module, name: str, layer: nn.Module):
        module = _base(unet.get_submodule(name))
        self.base = module.weight
        self.down, self.up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        self.weight = self.base.detach().clone(memory_format=torch.contiguous_format).requires_grad_(True)
        del module.weight
        module.weight = self.weight  # no parameter: it is neither saved nor trained
        self.weight.register_post_accumulate_grad_hook(lambda weight: self._pass_on())

    @torch.no_grad()
    def write(self) -> None:
        flat = self.weight.copy_(self.base).view(len(self.base), -1)
        flat.addmm_(self.up.flatten(1), self.down.flatten(1))

    @torch.no_grad()
    def _pass_on(self) -> None:
        gradient, self.weight.grad = self.weight.grad.flatten(1), None
        _accumulate(self.down, self.up.flatten(1).T @ gradient)
        _accumulate(self.up, gradient @ self.down.flatten(1).T)


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    gradient = gradient.view_as(parameter)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _base(module: nn.Module) -> nn.Module:
    """The layer itself, where another adapter is wrapped around it."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _add_adapter(unet: nn.Module, config: ScoreConfig, generator: torch.Generator) -> dict[str, nn.Module]:
    """Inject the adapter and return its layers by name; adapters that are there stay as they are.

    The down projection is drawn from `generator` (peft draws from the global one), the up projection
    is zero: q starts as its base.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    active = {name: list(m.active_adapters) for name, m in unet.named_modules() if isinstance(m, BaseTunerLayer)}
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.rank, target_modules=_targets(unet, config, active), bias="none"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is another adapter is what we are here for
        inject_adapter_in_model(settings, unet, adapter_name=ADAPTER)
    layers = {}
    for name, module in unet.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        ours = [ADAPTER] if ADAPTER in module.lora_A else []
        module.set_adapter([*active.get(name, []), *ours])  # peft has switched off all but the newest
        if ours:
            layers[name] = module
    unet.requires_grad_(False)
    for layer in layers.values():
        down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        kind = torch.promote_types(torch.float32, unet.dtype)  # trained in full precision whatever the base's
        down.to(kind).requires_grad_(True), up.to(kind).requires_grad_(True)
        with torch.no_grad():
            bound = 1 / math.sqrt(down.weight[0].numel())
            down.weight.copy_((torch.rand(down.weight.shape, generator=generator) * 2 - 1) * bound)
    return layers


def _targets(unet: nn.Module, config: ScoreConfig, wrapped: dict) -> list[str]:
    """Names of the layers that get an adapter: convolutions and linears, or what another adapter made of them."""
    names = [
        name
        for name, module in unet.named_modules()
        if isinstance(_base(module), (nn.Linear, nn.Conv2d))
        and not any(name.startswith(f"{other}.") for other in wrapped)
    ]
    if config.targets == "all":
        return names
    endings = ATTENTION if config.targets == "attention" else config.targets
    chosen = [name for name in names if any(name == ending or name.endswith(f".{ending}") for ending in endings)]
    if not chosen:
        kinds = sorted({name.split(".")[-1] for name in names if not name.split(".")[-1].isdigit()})
        raise InputError(
            f"guidance.score.targets = {list(endings)}: no layer of the U-Net ends so; some that do: {', '.join(kinds)}"
        )
    return chosen
