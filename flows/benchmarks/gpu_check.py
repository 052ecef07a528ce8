"""Comparison of a GPU's results with the references on the CPU (`prolific doctor --gpu`).

Every kernel, with every backend that `auto` may choose, computes the same values and gradients as plain PyTorch on the
CPU. Networks in half precision give finite numbers near those in float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prolific_core import cameras
from prolific_core.mesh.extract import marching_tetrahedra
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.render import backends
from prolific_core.render.hash_grid.encoding import HashEncoding
from prolific_core.render.mesh.raster import Visibility
from prolific_core.render.volume.compositing import composite
from prolific_core.render.volume.marching import Samples, march
from prolific_core.seeding import generator

CPU = torch.device("cpu")

#: Largest difference of the networks' outputs in each data type, over the largest value.
ALLOWED = {"float32": 1e-2, "float16": 0.05, "bfloat16": 0.2}


@dataclass(frozen=True)
class Check:
    """Result of a check: its name, whether it passed, and a number or a reason."""

    name: str
    passed: bool
    detail: str


def check(device: torch.device) -> Iterator[Check]:
    """Run all checks one after the other. A failure, such as an exception, stops no other check."""
    kernels: dict[str, Callable[[torch.device, str], tuple[float, float]]] = {
        "hash_encoding": _hash_encoding,
        "marching": _marching,
        "compositing": _compositing,
        "raster": _raster,
    }
    for kernel, difference in kernels.items():
        for backend in backends.available(kernel, device):
            if backend in backends.BY_NAME_ONLY:  # nothing uses it without being told to
                continue
            yield _checked(f"{kernel}: {backend}", lambda: difference(device, backend))  # noqa: B023 (called at once)
    for name in ALLOWED:
        yield _checked(f"networks: {name}", lambda: _networks(device, name))  # noqa: B023


def _checked(name: str, difference: Callable[[], tuple[float, float]]) -> Check:
    try:
        found, allowed = difference()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return Check(name, False, f"{type(error).__name__}: {reason}")
    return Check(name, found <= allowed, f"difference {found:.2g}, at most {allowed:.2g}")


def _largest(*pairs: tuple[Tensor, Tensor]) -> float:
    """Return the largest difference of tensors on a GPU and on the CPU, over the largest value on the CPU."""
    found = []
    for gpu, cpu in pairs:
        gpu, cpu = gpu.detach().cpu().double(), cpu.detach().double()
        if gpu.shape != cpu.shape:
            raise ValueError(f"the shape is {tuple(gpu.shape)} instead of {tuple(cpu.shape)}")
        found.append(float((gpu - cpu).abs().max() / cpu.abs().max().clamp(min=1e-30)) if cpu.numel() else 0.0)
    return max(found) if all(value == value for value in found) else float("inf")


def _hash_encoding(device: torch.device, backend: str) -> tuple[float, float]:
    """Compare features and the gradient of the table."""
    points = torch.rand(4096, 3, generator=generator(0, "points"))

    def run(where: torch.device, name: str) -> tuple[Tensor, Tensor]:
        encoding = HashEncoding(8, 2, 14, 16, 512, backend=name, generator=generator(0, "table")).to(where)
        features = encoding(points.to(where))
        features.square().sum().backward()
        assert encoding.table.grad is not None
        return features, encoding.table.grad

    return _largest(*zip(run(device, backend), run(CPU, "torch"))), 1e-4


def _samples(where: torch.device, backend: str) -> tuple[Tensor, Tensor, Samples]:
    """Return rays and their samples in a grid of which a ball is occupied."""
    views = cameras.orbit(2, elevation=20, distance=1.4, fov=45)
    origins, directions = (ray.reshape(-1, 3) for ray in views.rays(32))
    occupied = grid_points(15, 1.0).norm(dim=-1).view(16, 16, 16) < 0.6
    rays = origins.contiguous().to(where), directions.contiguous().to(where)
    return *rays, march(*rays, occupied.to(where), bound=1.0, step=0.02, backend=backend)


def _marching(device: torch.device, backend: str) -> tuple[float, float]:
    """Compare the numbers of samples; a step at the border of a cell may be on either side of it."""
    counts = [_samples(where, name)[2].offsets.diff() for where, name in ((device, backend), (CPU, "torch"))]
    different = (counts[0].cpu() - counts[1]).abs().sum()
    return float(different / counts[1].sum()), 1e-3


def _compositing(device: torch.device, backend: str) -> tuple[float, float]:
    """Compare colours, opacities and depths, and the gradients of densities and colours."""
    samples = _samples(CPU, "torch")[2]
    random = generator(0, "samples")
    density, colour = torch.rand(len(samples), generator=random) * 10, torch.rand(len(samples), 3, generator=random)

    def run(where: torch.device, name: str) -> tuple[Tensor, ...]:
        inputs = [value.to(where).clone().requires_grad_() for value in (density, colour)]
        moved = Samples(*(getattr(samples, part).to(where) for part in ("ray_index", "start", "end", "offsets")))
        result = composite(inputs[0], inputs[1], moved, backend=name)
        (result.colour.square().sum() + result.opacity.sum() + result.depth.sum()).backward()
        gradients = [value.grad for value in inputs if value.grad is not None]
        return result.colour, result.opacity, result.depth, *gradients

    return _largest(*zip(run(device, backend), run(CPU, "torch"))), 1e-4


def _raster(device: torch.device, backend: str) -> tuple[float, float]:
    """Compare the visible faces of a ball; a ray through an edge may hit either of its faces."""
    points = grid_points(12, 1.0)
    vertices, faces = marching_tetrahedra(points, 0.5 - points.norm(dim=-1), 12)
    views = cameras.orbit(2, elevation=20, distance=2.0, fov=45)
    found = [
        Visibility(vertices.to(where), faces.to(where), name)(*(ray.contiguous() for ray in views.to(where).rays(64)))
        for where, name in ((device, backend), (CPU, "torch"))
    ]
    return float((found[0].cpu() != found[1]).float().mean()), 5e-3


def _networks(device: torch.device, dtype: str) -> tuple[float, float]:
    """Compare the Toybox's latents and predicted noise with those in float32 on the CPU."""
    return _largest(*zip(_predictions(device, dtype), _expected_predictions())), ALLOWED[dtype]


@cache
def _expected_predictions() -> tuple[Tensor, Tensor]:
    return _predictions(CPU, "float32")


@torch.no_grad()
def _predictions(device: torch.device, dtype: str) -> tuple[Tensor, Tensor]:
    """Return the latents of an image and the predicted noise."""
    prior = LatentDiffusion.load("toybox", device=device, dtype=dtype)
    latents = prior.encode(torch.rand(1, 3, 64, 64, generator=generator(0, "image")).to(device))
    return latents, prior.predict_noise(latents, torch.tensor([500], device=device), prior.embed(["a red mug"]))
