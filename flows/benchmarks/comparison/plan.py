"""Runs of a comparison: methods, guidance scales, prompts and seeds, and its sizes."""

from dataclasses import dataclass, replace

PROMPTS = (
    "a red mushroom", "a blue chair", "a yellow house", "a green car", "a red mug", "an orange rocket",
    "a blue cube", "a green cone", "a purple ball", "a pink ring", "a white snowman", "a green cylinder",
)  # fmt: skip
# Guidance scales are chosen with these prompts and this seed, none of which is in a table.
TUNING_PROMPTS = ("a yellow mushroom", "a green chair")
TUNING_SEED = 1000


@dataclass(frozen=True)
class Size:
    """Size of a comparison in 2D or in 3D.

    Attributes:
        prompts: Number of prompts.
        seeds: Number of seeds for each prompt.
        evaluations: U-Net evaluations per image in 2D, and per radiance field in 3D, equal for all methods.
        scales: Guidance scales from which that of each method is chosen.
        tuning_prompts: Number of prompts with which it is chosen.
        particles: Images of a run in 2D, which are optimised together. A run in 3D has one particle.
        methods: The only methods that run by default; empty for all.
    """

    prompts: int
    seeds: int
    evaluations: int
    scales: tuple[float, ...]
    tuning_prompts: int = 1
    particles: int = 1
    methods: tuple[str, ...] = ()


#: Sizes by form and space.
SIZES = {
    "quick": {
        "2d": Size(2, 4, 400, (1.0, 7.5), particles=4),
        "3d": Size(1, 1, 1800, (4.0,), methods=("vsd", "sds")),
    },
    "default": {
        "2d": Size(3, 3, 1200, (1.0, 3.0, 7.5, 30.0), 1, particles=4),
        "3d": Size(3, 3, 3600, (4.0, 30.0), 1),
    },
    "full": {
        "2d": Size(12, 3, 1200, (1.0, 3.0, 7.5, 30.0), 2, particles=4),
        "3d": Size(12, 3, 3600, (4.0, 30.0), 2),
    },
}


@dataclass(frozen=True)
class Run:
    """A run of a comparison, which makes a set of images in 2D or a model in 3D."""

    method: str
    scale: float
    prompt: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} at {self.scale:g}, {self.prompt}, seed {self.seed}"


def tuning(methods: list[str], size: Size) -> list[Run]:
    """Return the runs that choose the guidance scale of each method."""
    if len(size.scales) == 1:
        return []
    prompts = TUNING_PROMPTS[: size.tuning_prompts]
    return [Run(m, s, prompt, TUNING_SEED) for m in methods for s in size.scales for prompt in prompts]


def best_scales(methods: list[str], size: Size, excess: dict[Run, float]) -> dict[str, float]:
    """Return the scale with the smallest mean excess of the kernel distance for each method.

    `excess` has the value of every run of `tuning`.
    """
    if len(size.scales) == 1:
        return dict.fromkeys(methods, size.scales[0])

    def mean(method: str, scale: float) -> float:
        values = [value for run, value in excess.items() if (run.method, run.scale) == (method, scale)]
        return sum(values) / len(values)

    return {method: min(size.scales, key=lambda scale, m=method: mean(m, scale)) for method in methods}


def table_runs(scales: dict[str, float], prompts: list[str], seeds: int) -> list[Run]:
    """Return the runs of the table. Those of one seed come first, so that an interrupted comparison has all methods."""
    return [Run(m, s, prompt, seed) for seed in range(seeds) for prompt in prompts for m, s in scales.items()]


def changed(size: Size, **values: int | None) -> Size:
    """Return the size with the given values, of which None changes nothing."""
    return replace(size, **{name: value for name, value in values.items() if value is not None})
