"""Speed benchmark of the radiance field's kernels on one CPU thread (`prolific bench render`).

All metrics are measured in the same run:

    encode_speedup        speedup of the Warp kernels over vectorised PyTorch for the hash encoding (the paper's 16
                          levels), forward pass and gradients of the table, on the samples of a training render
    encode_vs_numba       the same ratio with plain numba loops instead of PyTorch; None if numba is not installed
    render_speedup        64 x 64 training render of a trained object, forward and backward: time of the PyTorch
                          reference over time of the Warp kernels
    skip_sample_ratio     number of samples without occupancy skipping over number with occupancy skipping
    skip_psnr_db          PSNR between the images with and without occupancy skipping
    nonmatmul_over_matmul training render (network width 64): time of everything except matrix products over time of
                          the matrix products

Before the measurements, a radiance field with the paper's settings is fitted to a mesh of the Toybox world
(fitted_object.py).
"""

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from flows.benchmarks import fitted_object, numba_encoding, results
from flows.benchmarks.results import Goal
from prolific_core import cameras
from prolific_core.config import FieldConfig
from prolific_core.render.hash_grid.encoding import encode_reference
from prolific_core.render.hash_grid.warp import encode_warp
from prolific_core.render.volume.marching import march
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.seeding import generator
from tasks.runtime.machine import set_up_torch

SIDE = 64
FIELD = FieldConfig()


@dataclass(frozen=True)
class Numbers:
    """Metrics of the benchmark, and the sample counts and times (in milliseconds) from which they are computed."""

    encode_speedup: float
    encode_vs_numba: float | None
    render_speedup: float
    skip_sample_ratio: float
    skip_psnr_db: float
    nonmatmul_over_matmul: float
    samples: int  # number of samples in the training render
    encode_ms: float
    render_ms: float
    matmul_ms: float


GOALS = {
    "encode_speedup": Goal(30, None, "hash encoding: speed-up over PyTorch"),
    "encode_vs_numba": Goal(1, None, "hash encoding: speed-up over numba"),
    "render_speedup": Goal(8, None, "training render: speed-up over PyTorch"),
    "skip_sample_ratio": Goal(4, None, "samples without / with skipping"),
    "skip_psnr_db": Goal(40, None, "PSNR of skipping (dB)"),
    "nonmatmul_over_matmul": Goal(None, 4, "render: other time / matrix products"),
}


def bench(repetitions: int = 5, config: FieldConfig = FIELD, steps: int = 150) -> Numbers:
    """Fit a radiance field to the object for `steps` steps, run the benchmark and return its results.

    The slow reference implementations are timed with half as many repetitions.
    """
    set_up_torch(1, "cpu")
    field = fitted_object.fitted(config, steps)
    origins, directions = cameras.orbit(1, elevation=15, distance=1.25, fov=55).rays(SIDE)
    rays = origins.reshape(-1, 3), directions.reshape(-1, 3)
    samples = _march(field, rays, field.occupancy.occupied)
    positions = (samples.positions(*rays) / config.bound + 1) / 2
    few = (repetitions + 1) // 2
    encode = _seconds(_encode(field, positions, encode_warp), repetitions)
    reference = _seconds(_encode(field, positions, encode_reference), few)
    numba = _numba_seconds(field, positions, repetitions)
    render = _seconds(_render(field, origins, directions), repetitions)
    slow = _seconds(_render(_as_reference(field), origins, directions), few)
    matmul = _seconds(_products(field, len(samples)), repetitions)
    every = torch.ones_like(field.occupancy.occupied)
    return Numbers(
        encode_speedup=reference / encode,
        encode_vs_numba=numba and numba / encode,
        render_speedup=slow / render,
        skip_sample_ratio=len(_march(field, rays, every)) / len(samples),
        skip_psnr_db=_skipping_error(field, origins, directions, every),
        nonmatmul_over_matmul=(render - matmul) / matmul,
        samples=len(samples),
        encode_ms=1e3 * encode,
        render_ms=1e3 * render,
        matmul_ms=1e3 * matmul,
    )


def _seconds(call: Callable[[], None], repetitions: int) -> float:
    """Measure the median CPU time of a call in seconds, after one warm-up call."""
    times = []
    for _ in range(repetitions + 1):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return median(times[1:])


def _march(field: RadianceField, rays: tuple[Tensor, Tensor], occupied: Tensor):
    return march(*rays, occupied, bound=field.config.bound, step=field.step, generator=generator(0, "bench", "march"))


def _encode(field: RadianceField, x: Tensor, encode) -> Callable[[], None]:
    encoding = field.encoding
    incoming = torch.randn(len(x), encoding.width, generator=generator(0, "bench", "incoming"))

    def call() -> None:
        encoding.table.grad = None
        encode(x, encoding.table, encoding.levels, encoding.smooth).backward(incoming)

    return call


def _numba_seconds(field: RadianceField, x: Tensor, repetitions: int) -> float | None:
    if importlib.util.find_spec("numba") is None:
        return None
    forward, backward = numba_encoding.kernels()
    encoding, table = field.encoding, field.encoding.table.detach()
    scales, grids = numba_encoding.grids_of(encoding.levels)
    shape = (len(x), len(encoding.levels), encoding.features)
    incoming = torch.randn(shape, generator=generator(0, "bench", "incoming")).numpy()

    def call() -> None:
        out, gradient = torch.empty(shape), torch.zeros_like(table)
        forward(x.numpy(), table.numpy(), scales, grids, out.numpy())
        backward(x.numpy(), incoming, scales, grids, gradient.numpy())

    return _seconds(call, repetitions)


def _render(field: RadianceField, origins: Tensor, directions: Tensor) -> Callable[[], None]:
    incoming = torch.randn(1, 3, SIDE, SIDE, generator=generator(0, "bench", "picture"))

    def call() -> None:
        for parameter in field.parameters():
            parameter.grad = None
        draw = generator(0, "bench", "march")
        image = field.render_rays(origins, directions, generator=draw, random_background_probability=0.5)
        (image.rgb * incoming).sum().backward()

    return call


def _as_reference(field: RadianceField) -> RadianceField:
    reference = RadianceField(field.config, backend="torch")
    reference.load_state_dict(field.state_dict())
    return reference


def _products(field: RadianceField, samples: int) -> Callable[[], None]:
    """Return a function that computes only the network's matrix products for the given number of samples.

    Each layer has one product in the forward pass and two in the backward pass.
    """
    draw = generator(0, "bench", "products")
    weights = [layer.weight.detach() for layer in field.network if isinstance(layer, torch.nn.Linear)]
    inputs = [torch.randn(samples, weight.shape[1], generator=draw) for weight in weights]
    outputs = [torch.randn(samples, weight.shape[0], generator=draw) for weight in weights]

    def call() -> None:
        for weight, given, incoming in zip(weights, inputs, outputs):
            torch.matmul(given, weight.T)
            torch.matmul(incoming, weight)
            torch.matmul(incoming.T, given)

    return call


@torch.no_grad()
def _skipping_error(field: RadianceField, origins: Tensor, directions: Tensor, every: Tensor) -> float:
    """Compute the PSNR in dB between images with and without occupancy skipping, on a white background."""
    skipped = field.render_rays(origins, directions, background="white").rgb
    occupied, field.occupancy.occupied = field.occupancy.occupied, every
    whole = field.render_rays(origins, directions, background="white").rgb
    field.occupancy.occupied = occupied
    return -10 * math.log10(max((skipped - whole).square().mean().item(), 1e-12))


def table(numbers: Numbers) -> str:
    """Format the metrics, their goals and the measured times as a table of at most 80 columns."""
    return "\n".join(
        [
            results.goal_table(vars(numbers), GOALS),
            f"{numbers.samples} samples: encoding {numbers.encode_ms:.0f} ms, "
            f"render {numbers.render_ms:.0f} ms, of which matrix products {numbers.matmul_ms:.0f} ms",
        ]
    )
