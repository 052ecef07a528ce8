"""Estimate of the memory that an optimised stage needs, before it starts.

The estimate has these parts, of which the first three are exact:

- weights: the prior's weights (and those of another base of the score network), as they are stored;
- trained: four times the trained parameters of particles and score network (value, gradient, Adam's two moments);
- merged: the score network's weights with LoRA merged, and the gradient of the largest of them;
- activations: what the backward pass of the particle keeps of rendering and encoding, or what the training of the
  score network keeps, whichever is larger, since they do not exist at the same time;
- libraries: torch, the kernels and a GPU's context.

The activations of a network are counted as the outputs of all its smallest modules, on tensors without data. With
gradient checkpointing they are the outputs of the blocks and what the largest block keeps inside. Those of a render
are a number of bytes for each pixel.
"""

import copy
import math
import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from prolific_core.config import FieldConfig, NerfConfig
from prolific_core.guidance.base import Guidance
from prolific_core.scenes.base import Scene

LIBRARIES = 600 * 2**20  # bytes
BLOCK = re.compile(r"(resnets|attentions)\.\d+$")  # modules that diffusers recomputes under gradient checkpointing

#: Bytes that the render of a surface keeps per pixel: position, normal, coverage and colour.
SURFACE_PIXEL_BYTES = 256.0

#: Bytes that every sample of a field's render keeps, even without a graph: ray, start, end, noise, weight, gradient.
SAMPLE_BYTES = 24


def estimate(
    guidance: Guidance, scenes: Sequence[Scene], *, views: int, side: int, pixel_bytes: float
) -> dict[str, int]:
    """Estimate the memory of a training run.

    Args:
        guidance: The guidance of the run.
        scenes: The particles.
        views: Renders per step.
        side: Height and width of the largest training render in pixels.
        pixel_bytes: Bytes that a render keeps per pixel for its backward pass.

    Returns:
        Bytes by the parts that the module's description lists.
    """
    prior, score = guidance.prior, getattr(guidance, "score", None)
    trained = [parameter for scene in scenes for parameter in scene.parameters()]
    frozen, merged = [prior], []
    if score is not None:
        trained += score.trainable()
        frozen.append(score.base)
        merged = score.merged()
    image = torch.empty(views, 3, prior.resolution, prior.resolution, dtype=prior.vae.dtype)
    rendered = round(views * side**2 * pixel_bytes) + activation_bytes(prior.vae.encoder, image)
    return {
        "weights": size(tensor for model in frozen for tensor in (*model.parameters(), *model.buffers())),
        "trained": 4 * size(trained),
        "merged": size(merged) + max((size([tensor]) for tensor in merged), default=0),
        "activations": max(rendered, _score_pass(prior, score, views)),
        "libraries": LIBRARIES,
    }


def size(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors, each counted once."""
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def activation_bytes(module: nn.Module, *inputs: Tensor, **named: Tensor) -> int:
    """Return the bytes of activations that a forward pass keeps for its backward pass, without computing it.

    Args:
        module: The network, which is not changed.
        inputs: Positional inputs, of which only shape and dtype matter.
        named: Inputs by name.
    """
    module = _without_data(module)
    inside: dict[str, int] = {"": 0}  # by checkpointed block; "" is outside of all blocks
    outputs = 0
    recomputed = getattr(module, "is_gradient_checkpointing", False) or getattr(module, "gradient_checkpointing", False)

    def count(name: str, block: bool) -> Callable[..., None]:
        def hook(part, arguments, output) -> None:
            nonlocal outputs
            tensors = output if isinstance(output, (tuple, list)) else [output]
            amount = size(tensor for tensor in tensors if isinstance(tensor, Tensor))
            if block:
                outputs += amount
            else:
                inside[name] = inside.get(name, 0) + amount

        return hook

    for name, part in module.named_modules():
        block = BLOCK.search(re.sub(r"((?:resnets|attentions)\.\d+)\..*", r"\1", name)) if recomputed else None
        owner = name[: block.end()] if block else ""
        if block and owner == name:
            part.register_forward_hook(count(name, True))
        if not list(part.children()):
            part.register_forward_hook(count(owner, False))
    module.eval()
    with torch.no_grad():
        module(*(tensor.to("meta") for tensor in inputs), **{key: tensor.to("meta") for key, tensor in named.items()})
    outer = inside.pop("")
    return outer + (outputs + max(inside.values(), default=0) if recomputed else 0)


def _without_data(module: nn.Module) -> nn.Module:
    """Return a copy of the module tree on torch's `meta` device, without hooks."""
    memo: dict[int, Tensor] = {}
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(tensor, Tensor):
                empty = tensor.detach().to("meta")
                memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        part._forward_hooks.clear()
    return copied


def _score_pass(prior, score, views: int) -> int:
    """Return the bytes of activations of the score network's training."""
    if score is None:
        return 0
    unet, side = score.unet, prior.unet.config.sample_size
    dtype = next(unet.parameters()).dtype
    text = score.embed([""]).to(dtype).expand(views, -1, -1)
    noisy = torch.empty(views, unet.config.in_channels, side, side, dtype=dtype)
    return activation_bytes(unet, noisy, torch.zeros(views, dtype=torch.long), encoder_hidden_states=text)


def point_bytes(field: FieldConfig) -> float:
    """Return the bytes that a radiance field keeps per point: features, twice the hidden layers, and the output."""
    return 4.0 * (field.levels * field.features + 2 * field.hidden_width * field.hidden_layers + 16)


def field_pixel_bytes(field: FieldConfig, train: NerfConfig | None = None) -> float:
    """Return the bytes that the training render of a radiance field keeps per pixel.

    The ray of an object meets its ball on 4/3 of the radius (the mean chord), and the rest is skipped as empty. In
    the other scenes, half of the box's diagonal is assumed to be occupied.

    Args:
        field: Shape of the field.
        train: Settings of training, whose `patch` limits the rays that have their graph held at once.
    """
    fraction = 1.0  # of the largest training render's rays that have their graph held at once
    if train is not None and train.patch is not None:
        fraction = min(1.0, train.patch / (train.views * max(side for _, side in train.resolution) ** 2))
    diagonal = 2 * math.sqrt(3) * field.bound
    occupied = min(1.0, 4 / 3 * field.density_radius / diagonal) if field.scene == "object" else 0.5
    return (fraction * point_bytes(field) + (SAMPLE_BYTES if fraction < 1 else 0)) * (
        field.samples_per_ray * occupied + field.importance_samples
    )


def format_total(amounts: dict[str, int]) -> str:
    """Return the sum of the amounts as text such as `9.1 GB`, in units of 10^9 bytes as for graphics cards."""
    return f"{sum(amounts.values()) / 1e9:.1f} GB"
