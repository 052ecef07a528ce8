"""Estimate of the memory that an optimisation stage needs.

The estimate is the sum of the following parts, of which the first three are exact:

- weights: the weights of the prior and, if the score network has a different base model, the weights of that model's
  U-Net; those of text encoders count only on the CPU, because they are on a GPU only while they embed texts;
- trained: four times the size of the trained parameters (value, gradient and Adam's two moments);
- merged: the score network's weights with merged LoRA, or its factors in half precision, and the largest of their
  gradients;
- activations: the activations saved for the backward pass of rendering and encoding, or of training the score network,
  whichever is larger, because the two are not held in memory at the same time;
- libraries: torch, the kernels and the GPU context.

The activations of a network are estimated as the total size of the outputs of all modules without children, evaluated
on the meta device. With gradient checkpointing, they are the outputs of the checkpointed blocks and the activations
inside the largest block. The activations of a render are estimated as a constant number of bytes per pixel.
"""

import copy
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prolific_core.config import FieldConfig, NerfConfig
from prolific_core.errors import InputError
from prolific_core.guidance.base import Guidance
from prolific_core.scenes.base import Scene

LIBRARIES = 600 * 2**20  # bytes
TOLERANCE = 0.25  # error of the estimate, which tests/gpu/test_true_shapes.py checks
BLOCK = re.compile(r"(resnets|attentions)\.\d+$")  # modules that diffusers recomputes under gradient checkpointing

#: Bytes per pixel that a surface render saves for its backward pass (position, normal, coverage and colour).
SURFACE_PIXEL_BYTES = 256.0

#: Bytes per sample of a field's render without an autograd graph (ray, start, end, noise, weight and gradient).
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
        pixel_bytes: Bytes per pixel that a render saves for its backward pass.

    Returns:
        Number of bytes by part; see the module's docstring for the parts.
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
        "weights": size(
            tensor
            for model in frozen
            for tensor in (*model.parameters(), *model.buffers())
            if tensor.device.type == prior.device.type
        ),
        "trained": 4 * size(trained),
        "merged": size(merged) + max((size([tensor]) for tensor in merged), default=0),
        "activations": max(rendered, _score_pass(guidance, score, views)),
        "libraries": LIBRARIES,
    }


def size(tensors: Iterable[Tensor]) -> int:
    """Return the total size of the tensors in bytes, counting each tensor once."""
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def activation_bytes(module: nn.Module, *inputs: Tensor, **named: Any) -> int:
    """Return the size in bytes of the activations that a forward pass saves for its backward pass.

    The forward pass runs on the meta device and computes no values.

    Args:
        module: The network, which is not modified.
        inputs: Positional inputs, of which only shape and dtype matter.
        named: Keyword inputs: tensors, or dictionaries of tensors.
    """
    module = _without_data(module)
    inside: dict[str, int] = {"": 0}  # bytes by checkpointed block, with "" for all other modules
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
        module(*tree_map_only(Tensor, on_meta, inputs), **tree_map_only(Tensor, on_meta, named))
    outer = inside.pop("")
    return outer + (outputs + max(inside.values(), default=0) if recomputed else 0)


def on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape and data type without values."""
    return tensor.to("meta")


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


def _score_pass(guidance: Guidance, score, views: int) -> int:
    """Return the size in bytes of the activations saved in a training step of the score network."""
    if score is None:
        return 0
    unet, side = score.unet, guidance.prior.unet.config.sample_size
    dtype = next(unet.parameters()).dtype
    text = score.embed([guidance.prompt]).to(dtype).expand(views, -1, -1)
    conditions = score.conditions(text, torch.eye(4, device=text.device).expand(views, 4, 4))
    noisy = torch.empty(views, unet.config.in_channels, side, side, dtype=dtype)
    return activation_bytes(unet, noisy, torch.zeros(views, dtype=torch.long), **conditions)


def point_bytes(field: FieldConfig) -> float:
    """Return the number of bytes per point that a radiance field saves for its backward pass."""
    return 4.0 * (field.levels * field.features + 2 * field.hidden_width * field.hidden_layers + 16)


def field_pixel_bytes(field: FieldConfig, train: NerfConfig | None = None) -> float:
    """Return the number of bytes per pixel that a radiance field saves for the backward pass of a training render.

    For an object, the occupied part of a ray is assumed to be the mean chord of the initial ball, 4/3 of its radius. In
    other scenes, half of the box's diagonal is assumed to be occupied. Normals need six more evaluations of the field
    at each sample.

    Args:
        field: Configuration of the field.
        train: Training settings, whose `patch` limits the number of rays with an autograd graph.
    """
    fraction = 1.0  # fraction of the rays of the largest training render that have an autograd graph
    if train is not None and train.patch is not None:
        fraction = min(1.0, train.patch / (train.views * max(side for _, side in train.resolution) ** 2))
    diagonal = 2 * math.sqrt(3) * field.bound
    occupied = min(1.0, 4 / 3 * field.density_radius / diagonal) if field.scene == "object" else 0.5
    normals = train is not None and (train.shading.probability > 0 or train.losses.orientation > 0)
    return (fraction * point_bytes(field) * (7 if normals else 1) + (SAMPLE_BYTES if fraction < 1 else 0)) * (
        field.samples_per_ray * occupied + field.importance_samples
    )


def free_bytes(device: torch.device) -> int:
    """Return the number of bytes that this process can still allocate on a GPU."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def shortage(amounts: dict[str, int], device: torch.device, stage: str) -> str | None:
    """Compare an estimate with the free memory of a GPU, on which the weights already are.

    Args:
        amounts: The result of `estimate`.
        device: Device of the run; a CPU is never short.
        stage: Name of the stage, for the names of the settings.

    Returns:
        A line about the shortage with the settings that need less, or None if the memory suffices.

    Raises:
        InputError: The memory is too small even if the estimate is too large by its `TOLERANCE`.
    """
    if device.type == "cpu":
        return None
    needed, free = sum(amounts.values()) - amounts["weights"] - amounts["libraries"], free_bytes(device)
    if needed <= free:
        return None
    patch = "set nerf.patch to 4096, " if stage == "nerf" else ""
    line = (
        f"{stage} needs about {needed / 1e9:.1f} GB more GPU memory, and {free / 1e9:.1f} GB are free: {patch}set "
        f"prior.gradient_checkpointing to true, lower {stage}.resolution or {stage}.views, or close other programs"
    )
    if needed > (1 + TOLERANCE) * free:
        raise InputError(line)
    return f"warning: {line}"


def format_total(amounts: dict[str, int]) -> str:
    """Return the sum of the amounts as text such as `9.1 GB`, with 1 GB = 10^9 bytes."""
    return f"{sum(amounts.values()) / 1e9:.1f} GB"
