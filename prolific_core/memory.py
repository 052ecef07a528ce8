"""About how much memory an optimised stage needs, before it starts.

    weights       the prior's (and of another base for q), as they are stored              exact
    trained       4 x what is trained, particles and q: value, gradient, Adam's two        exact
    merged        q's weights with LoRA written in, and the gradient of the largest        exact
    activations   the larger of two moments, since neither outlives the other:             rough
                  the views' render and VAE encode, kept for the particle's backward pass,
                  or q's forward pass in training, kept for its own
    libraries     torch, kernels and a GPU's context                                       rough

What a pass keeps is counted as the outputs of all its smallest modules, on tensors without data; with
gradient checkpointing, the blocks' outputs and what the largest block keeps inside. What a render keeps
is the scene's `pixel_bytes` for each pixel.
"""

import copy
import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

LIBRARIES = 600 * 2**20  # bytes
BLOCK = re.compile(r"(resnets|attentions)\.\d+$")  # what diffusers computes again under gradient checkpointing


def estimate(guidance, particles: list[nn.Module], *, views: int, side: int, pixel_bytes: float) -> dict[str, int]:
    """Bytes by the names above, for `views` renders of `side` x `side` pixels a step."""
    prior, score = guidance.prior, getattr(guidance, "score", None)
    trained = [parameter for particle in particles for parameter in particle.parameters()]
    frozen, merged = [prior], []
    if score is not None:
        trained += score.trainable()
        frozen.append(score.base)
        merged = score.merged()
    image = torch.empty(views, 3, prior.resolution, prior.resolution, dtype=prior.vae.dtype)
    drawn = round(views * side**2 * pixel_bytes) + kept(prior.vae.encoder, image)
    return {
        "weights": size(tensor for model in frozen for tensor in (*model.parameters(), *model.buffers())),
        "trained": 4 * size(trained),
        "merged": size(merged) + max((size([tensor]) for tensor in merged), default=0),
        "activations": max(drawn, _score_pass(prior, score, views)),
        "libraries": LIBRARIES,
    }


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors, each counted once."""
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def kept(module: nn.Module, *inputs: Tensor, **named: Tensor) -> int:
    """Bytes of activations that a forward pass keeps for its backward pass; nothing is computed."""
    module = _without_data(module)
    inside: dict[str, int] = {"": 0}  # by checkpointed block; "": outside of them
    outputs = 0
    again = getattr(module, "is_gradient_checkpointing", False) or getattr(module, "gradient_checkpointing", False)

    def count(name: str, block: bool):
        def hook(part, arguments, output):
            nonlocal outputs
            tensors = output if isinstance(output, (tuple, list)) else [output]
            amount = size(tensor for tensor in tensors if isinstance(tensor, Tensor))
            if block:
                outputs += amount
            else:
                inside[name] = inside.get(name, 0) + amount

        return hook

    for name, part in module.named_modules():
        block = BLOCK.search(re.sub(r"((?:resnets|attentions)\.\d+)\..*", r"\1", name)) if again else None
        owner = name[: block.end()] if block else ""
        if block and owner == name:
            part.register_forward_hook(count(name, True))
        if not list(part.children()):
            part.register_forward_hook(count(owner, False))
    module.eval()
    with torch.no_grad():
        module(*(tensor.to("meta") for tensor in inputs), **{key: tensor.to("meta") for key, tensor in named.items()})
    outer = inside.pop("")
    return outer + (outputs + max(inside.values(), default=0) if again else 0)


def _without_data(module: nn.Module) -> nn.Module:
    """A copy of the module tree on torch's `meta` device, without hooks."""
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
    if score is None:
        return 0
    unet, side = score.unet, prior.unet.config.sample_size
    dtype = next(unet.parameters()).dtype
    text = score.embed([""]).to(dtype).expand(views, -1, -1)
    noisy = torch.empty(views, unet.config.in_channels, side, side, dtype=dtype)
    return kept(unet, noisy, torch.zeros(views, dtype=torch.long), encoder_hidden_states=text)


def point_bytes(field) -> float:
    """What a `config.FieldConfig`'s field keeps per point: features, hidden layers twice, and what comes out."""
    return 4.0 * (field.levels * field.features + 2 * field.hidden_width * field.hidden_layers + 16)


#: Bytes that every sample of a picture keeps, graph or not: ray, start, end, noise, weight and its gradient.
SAMPLE_BYTES = 24


def field_pixel_bytes(field, share: float = 1.0) -> float:
    """What a radiance field's render keeps per pixel, where `share` of the rays have their graph held at once.

    An object's ray meets its ball on 4/3 r (the mean chord), the rest is skipped as empty; in the other
    scenes half of the box's diagonal is taken.
    """
    diagonal = 2 * math.sqrt(3) * field.bound
    occupied = min(1.0, 4 / 3 * field.density_radius / diagonal) if field.scene == "object" else 0.5
    return (share * point_bytes(field) + (SAMPLE_BYTES if share < 1 else 0)) * (
        field.samples_per_ray * occupied + field.importance_samples
    )


def shown(amounts: dict[str, int]) -> str:
    """`9.1 GB`, in units of 10^9 bytes as graphics cards are sold."""
    return f"{sum(amounts.values()) / 1e9:.1f} GB"
