"""Ray marching: where along each ray the field is asked for its density.

A ray is cut into steps of one length inside the box [-bound, bound]^3. A step
whose midpoint lies in an empty cell of the occupancy grid is left out. Steps
are counted from where the ray enters the box, never from the last occupied
cell, so that skipping changes which samples there are but not where they are.

Samples are packed: those of ray r are rows offsets[r] to offsets[r + 1].
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor

from prolific_core.errors import InputError, ProlificError
from prolific_core.render import backends
from prolific_core.render import warp_launch as native


class TooManySamples(ProlificError):
    """A batch of rays has more samples than the caller allows."""


@dataclass
class Samples:
    """M packed steps of R rays, ordered by ray and then by distance.

    ray_index: (M,) int32 in [0, R); start, end: (M,) float32, distances along
    the unit ray; offsets: (R + 1,) int32, each ray's first row and, last, M.
    """

    ray_index: Tensor
    start: Tensor
    end: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.start)

    @property
    def rays(self) -> int:
        """The number of rays, with or without samples."""
        return len(self.offsets) - 1

    @property
    def middle(self) -> Tensor:
        """(M,) distance of each step's midpoint, where the field is evaluated."""
        return (self.start + self.end) / 2

    @property
    def length(self) -> Tensor:
        """(M,) length of each step."""
        return self.end - self.start

    def of_rays(self, first: int, last: int) -> "Samples":
        """Those of rays first to last (exclusive), counted from `first`."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        offsets = self.offsets[first : last + 1] - low
        return Samples(self.ray_index[low:high] - first, self.start[low:high], self.end[low:high], offsets)

    def positions(self, origins: Tensor, directions: Tensor) -> Tensor:
        """(M, 3) midpoints in the world, for rays (R, 3)."""
        index = self.ray_index.long()
        return origins[index] + self.middle[:, None] * directions[index]


def box_distances(origins: Tensor, directions: Tensor, bound: float, near: float, far: float) -> tuple[Tensor, Tensor]:
    """Distances (R,) at which rays (R, 3) enter and leave [-bound, bound]^3.

    Limited to [near, far]; where a ray misses, both are 0.
    """
    enter, leave = _slabs(origins, directions, -bound, bound)
    enter, leave = enter.clamp(min=near), leave.clamp(max=far)
    # Longer than the diagonal only where a direction is no unit vector: keeps the march finite.
    leave = torch.minimum(leave, enter + 2 * math.sqrt(3) * bound)
    hit = leave > enter  # false for NaN too
    return torch.where(hit, enter, 0.0), torch.where(hit, leave, 0.0)


def _slabs(origins: Tensor, directions: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """Distances (R,) at which the lines enter and leave the box of those corners; entering last where they miss."""
    # Parallel to a slab, 1 / 0 = inf is right; a ray inside its plane gives 0 * inf, hence the nudge.
    safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    return torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)


def march(
    origins: Tensor,
    directions: Tensor,
    occupied: Tensor,
    *,
    bound: float,
    step: float,
    near: float = 0.0,
    far: float = 1e10,
    generator: torch.Generator | None = None,
    max_samples: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Samples of rays (R, 3) in the occupied cells of a grid.

    directions: unit vectors. occupied: (G, G, G) bool, indexed [x, y, z], over
    [-bound, bound]^3. step, near, far: distances along the ray.
    generator: shifts each ray's steps by a uniform part of a step (stratified
        jitter; drawn on the CPU, so that every device gets the same); without
        one the first step starts where the ray enters.
    max_samples: raises TooManySamples beyond it, before memory is allocated.
    The first and the last step of a ray are shorter, so that together all
    steps cover the part of the ray that is inside, exactly.
    """
    if not step > 0:
        raise InputError(f"a step of {step:g} along the ray: it must be positive")
    enter, leave = box_distances(origins, directions, bound, near, far)
    if generator is None:
        shift = torch.ones_like(enter)
    else:  # in (0, 1]: the first boundary after the entrance, in steps
        shift = 1 - torch.rand(len(enter), generator=generator).to(enter)
    name = backends.choose("marching", backend, origins.device).name
    fill = _march_reference if name == backends.REFERENCE else _march_native
    return fill(origins, directions, enter, leave, shift, occupied, bound, step, max_samples)


def check_count(total: int, max_samples: int | None) -> None:
    """Raises TooManySamples where `total` is more than allowed."""
    if max_samples is not None and total > max_samples:
        raise TooManySamples(
            f"{total} samples along the rays, at most {max_samples} allowed: "
            "fewer rays at once, fewer samples_per_ray or a higher occupancy_threshold"
        )


def _march_reference(origins, directions, enter, leave, shift, occupied, bound, step, max_samples) -> Samples:
    """As `march`, in plain PyTorch over a dense (R, S) table of steps."""
    if len(enter) == 0:
        empty = enter.new_zeros(0)
        return Samples(empty.int(), empty, empty, torch.zeros(1, dtype=torch.int32, device=enter.device))
    counts = ((leave - enter).clamp(min=0) / step).ceil() + 1
    index = torch.arange(int(counts.max()), device=enter.device)
    start = enter[:, None] + (index - 1 + shift[:, None]).clamp(min=0) * step
    end = torch.minimum(enter[:, None] + (index + shift[:, None]) * step, leave[:, None])
    points = origins[:, None] + ((start + end) / 2)[..., None] * directions[:, None]
    resolution = occupied.shape[0]
    cell = ((points / bound + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1)
    keep = (end > start) & occupied[cell[..., 0], cell[..., 1], cell[..., 2]]
    check_count(int(keep.sum()), max_samples)
    offsets = torch.zeros(len(enter) + 1, dtype=torch.int32, device=enter.device)
    offsets[1:] = keep.sum(1).cumsum(0)
    return Samples(keep.nonzero()[:, 0].int(), start[keep], end[keep], offsets)


@lru_cache(maxsize=1)
def _kernels() -> SimpleNamespace:
    wp = native.warp()
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


def _march_native(origins, directions, enter, leave, shift, occupied, bound, step, max_samples) -> Samples:
    """As `march`: count per ray, exclusive scan, write."""
    kernels, vec3, device = _kernels(), native.warp().vec3, origins.device
    rays = len(enter)
    origins, directions, occupied = origins.contiguous(), directions.contiguous(), occupied.contiguous()
    reach = _reach(origins, directions, enter, leave, shift, occupied, bound, step)
    common = [(origins, vec3), (directions, vec3), enter, leave, shift, occupied, bound, step, *reach]
    counts = torch.empty(rays, dtype=torch.int32, device=device)
    native.launch_split(kernels.count, rays, (), [*common, counts], device)
    offsets = torch.zeros(rays + 1, dtype=torch.int32, device=device)
    offsets[1:] = counts.cumsum(0)
    total = int(offsets[-1])
    check_count(total, max_samples)
    ray_index = torch.empty(total, dtype=torch.int32, device=device)
    start, end = torch.empty(total, device=device), torch.empty(total, device=device)
    native.launch_split(kernels.write, rays, (), [*common, offsets, ray_index, start, end], device)
    return Samples(ray_index, start, end, offsets)


def _reach(origins, directions, enter, leave, shift, occupied, bound, step) -> tuple[Tensor, Tensor]:
    """The first step (R,) int32 worth looking at, and the distance (R,) beyond which none is.

    From the box around all occupied cells, with a cell to spare for rounding: most of a ray through an
    object's box is far from the object.
    """
    cells = occupied.nonzero()
    if len(cells) == 0:
        return torch.zeros_like(enter, dtype=torch.int32), enter
    side = 2 * bound / occupied.shape[0]
    low, high = (cells.amin(0) - 1) * side - bound, (cells.amax(0) + 2) * side - bound
    nearest, farthest = _slabs(origins, directions, low, high)
    steps = (nearest - enter) / step - shift - 1
    # Not a number where a ray is not: such rays have leave = enter = 0 and no steps.
    begin = steps.nan_to_num(0.0, 0.0, 0.0).clamp(0, 2**30).int()
    return begin, torch.minimum(leave, farthest.nan_to_num(0.0))
