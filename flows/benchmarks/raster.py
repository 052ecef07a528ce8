"""Speed benchmark of mesh rendering on one CPU thread (`prolific bench raster`).

A bumpy sphere with a given number of faces is rendered with normals, colours at its vertices and antialiasing. All
times are processor times of the same run, in milliseconds:

    build      search structure (BVH) and edges of the mesh, which are built again whenever vertices move
    visible    first face along each ray (`Visibility`), the same by the plain PyTorch reference where that takes
               seconds (`reference`), and a depth image by Mitsuba 3 if it is installed (`mitsuba`)
    forward    intersection, interpolation and antialiasing, without `visible`
    backward   gradient of the attributes
    vertices   what the gradient of the vertex positions adds to forward and backward

Derived metrics:

    reference_ratio   time of the reference over that of the Warp kernel, smallest over the sizes that both render
    mitsuba_ratio     the same with Mitsuba instead of the reference; None if it is not installed
    pixel_exponent    p in time ~ pixels^p, between the two largest resolutions; 1 is linear
    face_ratio        time of visible, forward and backward at the most faces over that at a tenth of them, at the
                      largest resolution
"""

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from flows.benchmarks import results
from flows.benchmarks.mitsuba_depth import MitsubaDepth
from flows.benchmarks.results import Goal
from prolific_core import cameras
from prolific_core.render.mesh.antialias import Edges, antialias
from prolific_core.render.mesh.raster import Visibility, first_hit_reference, interpolate, trace, vertex_normals
from prolific_core.seeding import generator
from tasks.runtime.machine import set_up_torch

SIDES, FACES, FOV = (128, 256, 512, 1024), (1_000, 20_000, 200_000), 45.0
#: Largest number of pairs of rays and faces that the reference tests.
REFERENCE_PAIRS = 40_000_000


@dataclass(frozen=True)
class Row:
    """Times of one size of mesh and image in milliseconds; see the module's docstring."""

    faces: int
    side: int
    build: float
    visible: float
    reference: float | None
    mitsuba: float | None
    forward: float
    backward: float
    vertices: float

    @property
    def render(self) -> float:
        return self.visible + self.forward + self.backward


@dataclass(frozen=True)
class Numbers:
    """Metrics of the benchmark, and the times from which they are computed."""

    reference_ratio: float | None
    mitsuba_ratio: float | None
    pixel_exponent: float
    face_ratio: float
    rows: list[Row]


GOALS = {
    "reference_ratio": Goal(10, None, "first hit: speed-up over PyTorch"),
    "mitsuba_ratio": Goal(1 / 3, None, "first hit: Mitsuba's time / ours"),
    "pixel_exponent": Goal(None, 1.1, "exponent of the time in pixels"),
    "face_ratio": Goal(None, 2, "time at 10 times the faces / time"),
}


def bumpy_sphere(faces: int) -> tuple[Tensor, Tensor]:
    """Return the vertices (V, 3) and about the given number of faces (F, 3) of a closed surface around the origin."""
    rows = max(3, round(math.sqrt(faces / 4)))
    columns = 2 * rows
    polar = torch.linspace(0, math.pi, rows + 1)[1:-1]
    azimuth = torch.arange(columns) * (2 * math.pi / columns)
    p, a = torch.meshgrid(polar, azimuth, indexing="ij")
    radius = 0.4 + 0.05 * (5 * p).sin() * (6 * a).sin() * p.sin()
    ring = torch.stack([p.sin() * a.cos(), p.sin() * a.sin(), p.cos()], -1) * radius[..., None]
    vertices = torch.cat([ring.reshape(-1, 3), torch.tensor([[0.0, 0, 0.4], [0, 0, -0.4]])])
    i, j = torch.meshgrid(torch.arange(rows - 2), torch.arange(columns), indexing="ij")
    here, right = i * columns + j, i * columns + (j + 1) % columns
    below, diagonal = here + columns, right + columns
    side = torch.arange(columns)
    top, bottom = len(vertices) - 2, len(vertices) - 1
    last = (rows - 2) * columns
    parts = [
        torch.stack([here, below, right], -1).reshape(-1, 3),
        torch.stack([right, below, diagonal], -1).reshape(-1, 3),
        torch.stack([torch.full_like(side, top), side, (side + 1) % columns], -1),
        torch.stack([torch.full_like(side, bottom), last + (side + 1) % columns, last + side], -1),
    ]
    return vertices, torch.cat(parts)


class _Found(Visibility):
    """Visibility whose result is known, so that the search is not timed.

    Args:
        vertices: Vertex positions (V, 3).
        faces: Vertex indices (F, 3).
        found: Face (B, H, W) along each ray.
    """

    def __init__(self, vertices: Tensor, faces: Tensor, found: Tensor):
        super().__init__(vertices, faces)
        self.found = found

    def __call__(self, origins: Tensor, directions: Tensor) -> Tensor:
        return self.found


def bench(repetitions: int = 3, sides: Sequence[int] = SIDES, faces: Sequence[int] = FACES) -> Numbers:
    """Measure all sizes and return the metrics.

    Args:
        repetitions: Number of times that every call is timed, after one that is not.
        sides: Heights and widths of the images in pixels, at least two, in ascending order.
        faces: Numbers of faces in ascending order; the last two are a factor of 10 apart.
    """
    set_up_torch(1, "cpu")
    rows = [_measure(count, side, repetitions) for count in faces for side in sides]
    ratios = [row.reference / row.visible for row in rows if row.reference is not None]
    mitsuba = [row.mitsuba / row.visible for row in rows if row.mitsuba is not None]
    largest = {(row.faces, row.side): row.render for row in rows}
    counts = sorted({row.faces for row in rows})
    small, large = sides[-2:]
    grown = largest[counts[0], large] / largest[counts[0], small]
    return Numbers(
        reference_ratio=min(ratios, default=None),
        mitsuba_ratio=min(mitsuba, default=None),
        pixel_exponent=math.log(grown) / math.log((large / small) ** 2),
        face_ratio=largest[counts[-1], large] / largest[counts[-2], large],
        rows=rows,
    )


def _measure(faces: int, side: int, repetitions: int) -> Row:
    vertices, triangles = bumpy_sphere(faces)
    camera = cameras.orbit(1, elevation=15, distance=1.4, fov=FOV)
    rays = camera.rays(side)
    flat = rays[0].reshape(-1, 3).contiguous(), rays[1].reshape(-1, 3).contiguous()
    draw = generator(0, "bench", "raster", faces)
    colours = torch.rand(len(vertices), 3, generator=draw)
    incoming = torch.randn(1, 6, side, side, generator=draw)

    def build() -> tuple[Visibility, Edges]:
        visibility = Visibility(vertices, triangles)
        visibility(rays[0][:, :1, :1], rays[1][:, :1, :1])  # the BVH is built by the first query
        return visibility, Edges.of(triangles)

    visibility, edges = build()
    found = _Found(vertices, triangles, visibility(*rays))

    def image(points: Tensor, painted: Tensor) -> Tensor:
        hits = trace(found, points, triangles, *rays)
        both = torch.cat([vertex_normals(points, triangles), painted], 1)
        return antialias(
            hits.image(interpolate(both, triangles, hits.face, hits.barycentrics)),
            hits,
            points,
            triangles,
            *rays,
            edges,
        )

    def step(with_vertices: bool, backwards: bool = True) -> Callable[[], object]:
        def call() -> object:
            points = vertices.clone().requires_grad_(with_vertices)
            made = image(points, colours.clone().requires_grad_())
            return (made * incoming).sum().backward() if backwards else made

        return call

    forward = _milliseconds(step(False, backwards=False), repetitions)
    both = _milliseconds(step(False), repetitions)
    everything = _milliseconds(step(True), repetitions)
    reference = None
    if len(flat[0]) * len(triangles) <= REFERENCE_PAIRS:
        reference = _milliseconds(lambda: first_hit_reference(vertices, triangles, *flat), 1)
    mitsuba = None
    if importlib.util.find_spec("mitsuba"):
        mitsuba = _milliseconds(MitsubaDepth(vertices, triangles, camera.c2w[0, :3, 3], FOV, side), repetitions)
    return Row(
        faces=len(triangles),
        side=side,
        build=_milliseconds(build, repetitions),
        visible=_milliseconds(lambda: visibility(*rays), repetitions),
        reference=reference,
        mitsuba=mitsuba,
        forward=forward,
        backward=max(both - forward, 0.0),
        vertices=max(everything - both, 0.0),
    )


def _milliseconds(call: Callable[[], object], repetitions: int) -> float:
    """Measure the median processor time of a call in milliseconds, after one call that is not timed."""
    times = []
    for _ in range(repetitions + 1):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1e3 * median(times[1:])


def table(numbers: Numbers) -> str:
    """Format the times, and the metrics with their goals."""
    names = list(Row.__dataclass_fields__)
    cells = [[getattr(row, name) for name in names] for row in numbers.rows]
    return f"{results.table(names, cells)}\n\n{results.goal_table(vars(numbers), GOALS)}"
