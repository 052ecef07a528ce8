"""Ray marching, which places the samples at which a field is evaluated.

The part of a ray inside the box [-bound, bound]^3 is divided into steps of equal length. A step whose midpoint lies in
an empty cell of the occupancy grid is skipped. Steps are counted from the point at which the ray enters the box rather
than from the last occupied cell, so that skipping steps does not move the others.

Samples are packed. The samples of ray r are rows offsets[r] to offsets[r + 1].
"""
# Warp kernels are annotated with Warp's types, which type checkers do not accept.
# pyright: basic, reportInvalidTypeForm=false
# Conditions in the kernels remain nested, because combining them changes the compiled code.
# ruff: noqa: SIM102

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prolific_core import seeding
from prolific_core.errors import InputError, ProlificError
from prolific_core.render import backends, warp_launch


class TooManySamples(ProlificError):
    """Error raised when a batch of rays has more samples than the caller allows."""


@dataclass
class Samples:
    """M packed steps of R rays, ordered by ray and then by distance.

    Attributes:
        ray_index: Index (M,) in [0, R) of the ray of each step, int32.
        start: Distance (M,) along the unit ray at which each step begins, in world units.
        end: Distance (M,) at which each step ends.
        offsets: First row of each ray, followed by M, as int32 (R + 1,).
    """

    ray_index: Int[Tensor, " samples"]
    start: Float[Tensor, " samples"]
    end: Float[Tensor, " samples"]
    offsets: Int[Tensor, " boundaries"]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def rays(self) -> int:
        """Number of rays, including those without samples."""
        return len(self.offsets) - 1

    @property
    def middle(self) -> Float[Tensor, " samples"]:
        """Distance (M,) of the midpoint of each step, where the field is evaluated."""
        return (self.start + self.end) / 2

    @property
    def length(self) -> Float[Tensor, " samples"]:
        """Length (M,) of each step."""
        return self.end - self.start

    def split(self, rays: int) -> list[tuple[slice, "Samples"]]:
        """Divide the samples into those of consecutive groups of rays.

        Args:
            rays: Number of rays in each group; the last group may be smaller.

        Returns:
            The rows of each group's samples, and the samples with their rays renumbered from 0.
        """
        edges = [*range(0, self.rays, rays), self.rays]
        rows = self.offsets[::rays].tolist()[: len(edges) - 1] + [len(self)]  # one wait for the GPU for all groups
        groups = []
        for first, last, low, high in zip(edges, edges[1:], rows, rows[1:]):
            offsets = self.offsets[first : last + 1] - low
            some = Samples(self.ray_index[low:high] - first, self.start[low:high], self.end[low:high], offsets)
            groups.append((slice(low, high), some))
        return groups

    def positions(
        self, origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]
    ) -> Float[Tensor, "samples 3"]:
        """Return the midpoints (M, 3) of the steps in world coordinates."""
        index = self.ray_index.long()
        return origins[index] + self.middle[:, None] * directions[index]


def box_distances(
    origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"], bound: float, near: float, far: float
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Return the distances at which rays enter and leave the box [-bound, bound]^3.

    Args:
        origins: Origins (R, 3) of the rays.
        directions: Unit directions (R, 3).
        bound: Half the box's side, in world units.
        near: Lower limit of the distances.
        far: Upper limit of the distances.

    Returns:
        Two tensors (R,), which are both 0 for a ray that misses the box.
    """
    enter, leave = _slabs(origins, directions, -bound, bound)
    enter, leave = enter.clamp(min=near), leave.clamp(max=far)
    # Limit the length to the box's diagonal, which is exceeded only if a direction is not a unit vector.
    leave = torch.minimum(leave, enter + 2 * math.sqrt(3) * bound)
    hit = leave > enter  # also false for NaN
    return torch.where(hit, enter, 0.0), torch.where(hit, leave, 0.0)


def _slabs(origins: Tensor, directions: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the distances (R,) at which lines enter and leave a box, with enter > leave if a line misses it."""
    # Avoid a division by 0, which gives NaN for a ray in the plane of a face.
    safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    return torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)


def march(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    occupied: Bool[Tensor, "cells cells cells"],
    *,
    bound: float,
    step: float,
    near: float = 0.0,
    far: float = 1e10,
    generator: torch.Generator | None = None,
    max_samples: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Place samples along rays in the occupied cells of a grid.

    The first and the last step of a ray are shorter than the others, so that all steps together cover exactly the part
    of the ray that is inside the box.

    Example:
        >>> origins, directions = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]])
        >>> len(march(origins, directions, torch.ones(8, 8, 8, dtype=torch.bool), bound=1.0, step=0.5))
        4

    Args:
        origins: Origins (R, 3) of the rays.
        directions: Unit directions (R, 3).
        occupied: Occupancy grid (G, G, G) over [-bound, bound]^3, indexed [x, y, z].
        bound: Half the box's side, in world units.
        step: Length of a step along the ray, in world units.
        near: Smallest distance along the ray at which a step may begin.
        far: Largest distance along the ray at which a step may end.
        generator: Source of a uniform shift of each ray's steps by a fraction of a step (stratified jitter). The shift
            is drawn on the rays' device (see `seeding.on_device`). If None, the first step begins where the ray enters
            the box.
        max_samples: Largest number of samples allowed; None for no limit.
        backend: Kernel backend; see `backends.choose`.

    Returns:
        The samples of all rays.

    Raises:
        InputError: `step` is not positive.
        TooManySamples: The rays have more than `max_samples` samples. The error is raised before memory is allocated.
        BackendMissing: The requested backend cannot run on the device.
    """
    if not step > 0:
        raise InputError(f"step must be positive, got {step:g}")
    enter, leave = box_distances(origins, directions, bound, near, far)
    if generator is None:
        shift = torch.ones_like(enter)
    else:  # distance in (0, 1] from the entry point to the first boundary, in steps
        device = enter.device
        shift = 1 - torch.rand(len(enter), generator=seeding.on_device(generator, device), device=device).to(enter)
    name = backends.choose("marching", backend, origins.device).name
    place = march_reference if name == backends.REFERENCE else march_warp
    return place(origins, directions, enter, leave, shift, occupied, bound, step, max_samples)


def check_count(total: int, max_samples: int | None) -> None:
    """Check that a number of samples does not exceed the limit.

    Args:
        total: The number of samples.
        max_samples: Largest number allowed; None for no limit.

    Raises:
        TooManySamples: `total` exceeds the limit.
    """
    if max_samples is not None and total > max_samples:
        raise TooManySamples(
            f"the rays have {total} samples, at most {max_samples} allowed; "
            "use fewer rays at once, fewer samples_per_ray or a higher occupancy_threshold"
        )


def march_reference(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    enter: Float[Tensor, " rays"],
    leave: Float[Tensor, " rays"],
    shift: Float[Tensor, " rays"],
    occupied: Bool[Tensor, "cells cells cells"],
    bound: float,
    step: float,
    max_samples: int | None,
) -> Samples:
    """Place samples along rays in plain PyTorch, using a dense table (R, S) of steps.

    Args:
        origins: Origins (R, 3) of the rays.
        directions: Unit directions (R, 3).
        enter: Distance (R,) at which each ray enters the box; see `box_distances`.
        leave: Distance (R,) at which each ray leaves the box.
        shift: Distance (R,) in (0, 1] from the entry point to the first boundary between steps, in steps.
        occupied: Occupancy grid (G, G, G) over [-bound, bound]^3.
        bound: Half the box's side, in world units.
        step: Length of a step along the ray, in world units.
        max_samples: Largest number of samples allowed; None for no limit.

    Returns:
        The samples of all rays.

    Raises:
        TooManySamples: The rays have more than `max_samples` samples.
    """
    if len(enter) == 0:
        empty = enter.new_zeros(0)
        return Samples(empty.int(), empty, empty, torch.zeros(1, dtype=torch.int32, device=enter.device))
    counts = ((leave - enter).clamp(min=0) / step).ceil() + 1
    index = torch.arange(int(counts.max()), device=enter.device)
    start = enter[:, None] + (index - 1 + shift[:, None]).clamp(min=0) * step
    end = torch.minimum(enter[:, None] + (index + shift[:, None]) * step, leave[:, None])
    points = origins[:, None] + ((start + end) / 2)[..., None] * directions[:, None]
    resolution = occupied.shape[0]
    cell = ((points / bound + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1)  # pyright: ignore[reportArgumentType]
    keep = (end > start) & occupied[cell[..., 0], cell[..., 1], cell[..., 2]]
    check_count(int(keep.sum()), max_samples)
    offsets = torch.zeros(len(enter) + 1, dtype=torch.int32, device=enter.device)
    offsets[1:] = keep.sum(1).cumsum(0)
    return Samples(keep.nonzero()[:, 0].int(), start[keep], end[keep], offsets)


@lru_cache(maxsize=1)
@no_type_check
def _kernels() -> SimpleNamespace:
    wp = warp_launch.warp()
    module = wp.get_module("prolific_core.marching")

    @wp.func(module=module)
    def cell_of(x: wp.float32, bound: wp.float32, resolution: wp.int32):
        return wp.clamp(wp.int32(wp.floor((x / bound + 1.0) * (wp.float32(resolution) * 0.5))), 0, resolution - 1)

    @wp.func(module=module)
    def start_of(i: wp.int32, enter: wp.float32, shift: wp.float32, step: wp.float32):
        return enter + wp.max(wp.float32(i - 1) + shift, 0.0) * step

    @wp.func(module=module)
    def end_of(i: wp.int32, enter: wp.float32, leave: wp.float32, shift: wp.float32, step: wp.float32):
        return wp.min(enter + (wp.float32(i) + shift) * step, leave)

    @wp.func(module=module)
    def is_occupied(
        origin: wp.vec3, direction: wp.vec3, t: wp.float32, occupied: wp.array3d(dtype=wp.bool), bound: wp.float32
    ):
        p = origin + t * direction
        n = occupied.shape[0]
        return occupied[cell_of(p[0], bound, n), cell_of(p[1], bound, n), cell_of(p[2], bound, n)]

    @wp.kernel(module=module, enable_backward=False)
    def count(
        first: wp.int32,
        origins: wp.array(dtype=wp.vec3),
        directions: wp.array(dtype=wp.vec3),
        enter: wp.array(dtype=wp.float32),
        leave: wp.array(dtype=wp.float32),
        shift: wp.array(dtype=wp.float32),
        occupied: wp.array3d(dtype=wp.bool),
        bound: wp.float32,
        step: wp.float32,
        begin: wp.array(dtype=wp.int32),
        until: wp.array(dtype=wp.float32),
        counts: wp.array(dtype=wp.int32),
    ):
        piece = wp.tid()
        ray = first + piece
        origin = origins[ray]
        direction = directions[ray]
        near_end = enter[ray]
        far_end = leave[ray]
        jitter = shift[ray]
        total = wp.int32(0)
        i = begin[ray]
        start = start_of(i, near_end, jitter, step)
        last = until[ray]
        while start < last:
            end = end_of(i, near_end, far_end, jitter, step)
            if end > start:
                if is_occupied(origin, direction, (start + end) * 0.5, occupied, bound):
                    total += 1
            i += 1
            start = start_of(i, near_end, jitter, step)
        counts[ray] = total

    @wp.kernel(module=module, enable_backward=False)
    def write(
        first: wp.int32,
        origins: wp.array(dtype=wp.vec3),
        directions: wp.array(dtype=wp.vec3),
        enter: wp.array(dtype=wp.float32),
        leave: wp.array(dtype=wp.float32),
        shift: wp.array(dtype=wp.float32),
        occupied: wp.array3d(dtype=wp.bool),
        bound: wp.float32,
        step: wp.float32,
        begin: wp.array(dtype=wp.int32),
        until: wp.array(dtype=wp.float32),
        offsets: wp.array(dtype=wp.int32),
        ray_index: wp.array(dtype=wp.int32),
        starts: wp.array(dtype=wp.float32),
        ends: wp.array(dtype=wp.float32),
    ):
        piece = wp.tid()
        ray = first + piece
        origin = origins[ray]
        direction = directions[ray]
        near_end = enter[ray]
        far_end = leave[ray]
        jitter = shift[ray]
        row = offsets[ray]
        stop = offsets[ray + 1]
        i = begin[ray]
        start = start_of(i, near_end, jitter, step)
        last = until[ray]
        while start < last and row < stop:
            end = end_of(i, near_end, far_end, jitter, step)
            if end > start:
                if is_occupied(origin, direction, (start + end) * 0.5, occupied, bound):
                    ray_index[row] = ray
                    starts[row] = start
                    ends[row] = end
                    row += 1
            i += 1
            start = start_of(i, near_end, jitter, step)

    return SimpleNamespace(count=count, write=write)


def march_warp(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    enter: Float[Tensor, " rays"],
    leave: Float[Tensor, " rays"],
    shift: Float[Tensor, " rays"],
    occupied: Bool[Tensor, "cells cells cells"],
    bound: float,
    step: float,
    max_samples: int | None,
) -> Samples:
    """Place samples with Warp kernels, which count the samples of each ray before writing them."""
    kernels, vec3, device = _kernels(), warp_launch.warp().vec3, origins.device
    rays = len(enter)
    origins, directions, occupied = origins.contiguous(), directions.contiguous(), occupied.contiguous()
    reach = _reach(origins, directions, enter, leave, shift, occupied, bound, step)
    common = [(origins, vec3), (directions, vec3), enter, leave, shift, occupied, bound, step, *reach]
    counts = torch.empty(rays, dtype=torch.int32, device=device)
    warp_launch.launch_split(kernels.count, rays, (), [*common, counts], device)
    offsets = torch.zeros(rays + 1, dtype=torch.int32, device=device)
    offsets[1:] = counts.cumsum(0)
    total = int(offsets[-1])
    check_count(total, max_samples)
    ray_index = torch.empty(total, dtype=torch.int32, device=device)
    start, end = torch.empty(total, device=device), torch.empty(total, device=device)
    warp_launch.launch_split(kernels.write, rays, (), [*common, offsets, ray_index, start, end], device)
    return Samples(ray_index, start, end, offsets)


def _reach(origins, directions, enter, leave, shift, occupied, bound, step) -> tuple[Tensor, Tensor]:
    """Return each ray's first step (R,) that may be occupied, and the distance (R,) beyond which none is occupied.

    Both are computed from the bounding box of all occupied cells, enlarged by one cell on each side to allow for
    rounding errors. Most steps of a ray through the whole volume are outside this box.
    """
    layers = torch.stack([occupied.any(2).any(1), occupied.any(2).any(0), occupied.any(1).any(0)]).int()
    side, last = 2 * bound / occupied.shape[0], occupied.shape[0] - 1
    # `argmax` finds the first of equal values. `nonzero` would make the host wait for a GPU.
    first_cell, last_cell = layers.argmax(1), last - layers.flip(1).argmax(1)
    low, high = (first_cell - 1) * side - bound, (last_cell + 2) * side - bound
    nearest, farthest = _slabs(origins, directions, low, high)
    steps = (nearest - enter) / step - shift - 1
    # A ray with non-finite values has NaN distances here, but enter = leave = 0 and therefore no steps.
    begin = steps.nan_to_num(0.0, 0.0, 0.0).clamp(0, 2**30).int()
    until = torch.minimum(leave, farthest.nan_to_num(0.0))
    return begin, torch.where(layers.any(), until, enter)  # nothing is occupied: no steps
