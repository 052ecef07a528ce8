"""Every parameter: its unit, default and bounds. params.yaml, presets and prompts are checked here.

Precedence: the defaults below, then params.yaml, then presets/<preset>.yaml, then the prompt's own
sections. One section per stage, so that DVC sees each stage depend on its own numbers only. The
defaults are the paper's (arXiv 2305.16213) where it has one.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from prolific_core import discovery
from prolific_core.errors import InputError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range goes from low to high, not {pair[0]} to {pair[1]}")
    return pair


def _range(**bounds):
    end = Annotated[float, Field(**bounds)]
    return Annotated[tuple[end, end], AfterValidator(_ordered)]


DistanceRange = _range(gt=0, le=1000)  # world units
FovRange = _range(gt=0, lt=180)  # degrees
ElevationRange = _range(ge=-90, le=90)  # degrees


class Section(BaseModel):
    """A group of parameters; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _one_of(known):
    """A name among those that `known()` finds in a folder: a new file there is all it takes."""

    def check(name: str) -> str:
        if name not in known():
            raise ValueError(f"there is no such file; known: {', '.join(known())}")
        return name

    return Annotated[str, AfterValidator(check)]


class SystemConfig(Section):
    """Where it computes. The thread count decides the bytes, so it is a parameter, never the machine's."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, le=256)
    backend: Literal["auto", "warp", "torch", "cuda"] = "auto"


class PriorConfig(Section):
    """The 2D model: `toybox` (ships with the package), a folder, or a model id on the hub."""

    path: str = Field("toybox", min_length=1, max_length=1000)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # of the frozen weights; what is trained is float32
    vae_slicing: bool = False  # pictures through the autoencoder one by one: less memory with several views
    gradient_checkpointing: bool = False  # blocks computed again in the backward pass: less memory, more time
    torch_compile: bool = False  # the U-Net compiled at its first call: minutes once, then faster on a GPU


class TimeConfig(Section):
    """t ~ U(minimum, upper) as fractions of the prior's T; `upper` goes from maximum to final.

    `step`: the paper's two phases, changing at fraction `at` of the run; `sqrt`, `linear` and `cosine`:
    continuous, with that function of progress; `none`: uniform on (minimum, maximum) throughout.
    """

    minimum: Fraction = 0.02
    maximum: Fraction = 0.98
    final: Fraction = 0.5
    anneal: Literal["step", "sqrt", "linear", "cosine", "none"] = "step"
    at: Fraction = 0.2


class ScoreConfig(Section):
    """The learned score q of the particles (VSD only): LoRA on the prior's U-Net, or a small one of its own."""

    kind: Literal["lora", "unet"] = "lora"
    base: str | None = Field(None, max_length=1000)  # another pipeline (the paper: SD 2.1, v-prediction)
    prediction: Literal["epsilon", "v_prediction"] | None = None  # q's, in its loss; null: the base's (lora), v (unet)
    rank: int = Field(4, ge=1, le=256)
    # attention: q, k, v and out, as in the paper; all: every convolution and linear; else endings of module names.
    targets: Literal["attention", "all"] | list[Annotated[str, Field(min_length=1, max_length=200)]] = "attention"
    channels: list[Annotated[int, Field(ge=8, le=2048, multiple_of=8)]] = Field(
        [32, 64, 128], min_length=1, max_length=6
    )  # unet
    learning_rate: Rate = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # Adam's
    warmup: int = Field(0, ge=0, le=100_000)  # score steps in which the rate climbs to its value
    steps: int = Field(1, ge=1, le=100)  # score steps per particle step
    camera_dropout: Fraction = 0.1
    # One of the steps is trained on q's pass for the particle's gradient: one evaluation of q less. That step
    # then sees the particle's t (its annealed range, not U[0, T)) and noise, and every camera.
    share_pass: bool = False


class GuidanceConfig(Section):
    """How the prior's belief becomes a gradient on an image."""

    method: _one_of(discovery.guidance_methods) = "vsd"  # a file in guidance/
    combine: _one_of(discovery.score_compositions) = "cfg"  # a file in guidance/combine/
    scale: float = Field(7.5, ge=0, le=1000)  # classifier-free guidance: uncond + scale (cond - uncond)
    rescale: Fraction = 0.7  # combine: rescale; the share of the picture with the conditional's deviation
    negative_scale: float | None = Field(None, ge=0, le=1000)  # csd: of the negative prompt; null: `scale`
    # Guidance only for t in this range, as fractions of T (2404.07724); outside eps_pretrained is the
    # conditional's alone: one evaluation less, and a gradient there as with scale 1. null: everywhere.
    interval: _range(ge=0, le=1) | None = None
    weighting: Literal["one_minus_alpha_bar", "uniform", "alpha_sigma_squared"] = "one_minus_alpha_bar"
    prompt: str = Field("{prompt}", max_length=200)  # "a normal map of {prompt}" for normals
    negative_prompt: str = Field("", max_length=500)
    # true: the paper's words by azimuth and elevation; interpolated: their embeddings mixed by azimuth
    # (DreamFusion). Never in 360-degree scenes, whose cameras stand inside.
    view_prompts: bool | Literal["interpolated"] = True
    time: TimeConfig = TimeConfig()
    score: ScoreConfig = ScoreConfig()


class CameraConfig(Section):
    """Training cameras. Distances in world units (the object fits in [-1, 1]^3), angles in degrees."""

    distance: DistanceRange = (1.0, 1.5)
    fov: FovRange = (40.0, 70.0)
    elevation: ElevationRange = (-30.0, 90.0)
    uniform_probability: Fraction = 0.5  # of a view uniform on the upper hemisphere


class FieldConfig(Section):
    """The radiance field: multiresolution hash grid and two small networks."""

    levels: int = Field(16, ge=1, le=32)
    features: Literal[1, 2, 4, 8] = 2
    log2_entries: int = Field(19, ge=4, le=24)
    base_resolution: int = Field(16, ge=2, le=512)
    max_resolution: int = Field(2048, ge=2, le=65536)
    interpolation: Literal["smoothstep", "linear"] = "smoothstep"
    hidden_width: int = Field(64, ge=4, le=512)
    hidden_layers: int = Field(1, ge=1, le=8)
    bound: float = Field(1.0, gt=0, le=100)
    scene: Literal["object", "scene", "object-in-scene"] = "object"
    density_scale: float = Field(10.0, ge=-1000, le=1000)  # lambda of the initial density
    density_radius: Positive = 0.5  # r of the initial density
    density_noise: Weight = 1.0  # standard deviation, before the activation, while training
    background: Literal["network", "white", "grey", "black"] = "network"
    occupancy_resolution: int = Field(32, ge=4, le=512)
    occupancy_threshold: Weight = 0.01
    samples_per_ray: int = Field(512, ge=4, le=4096)  # along the box's diagonal, before skipping
    importance_samples: int = Field(0, ge=0, le=1024)  # more, where the first ones found something (the paper: 64 + 32)


class InitialiseConfig(Section):
    """Stage 1: the particles' fields before any guidance."""

    particles: int = Field(1, ge=1, le=64)
    field: FieldConfig = FieldConfig()
    preview_resolution: int = Field(128, ge=16, le=2048)


class LossWeights(Section):
    """Weights of the field's regularisers (`scenes/regularisers.py`)."""

    opacity: Weight = 0.0
    opacity_end: Weight | None = None  # null: constant; else linear to this, as the guidance's gradient fades with t
    sparsity: Weight = 0.0
    entropy: Weight = 10.0
    orientation: Weight = 0.0

    def opacity_at(self, progress: float) -> float:
        """The opacity's weight at `progress` in [0, 1] of the run."""
        end = self.opacity if self.opacity_end is None else self.opacity_end
        return self.opacity + (end - self.opacity) * progress


class StageConfig(Section):
    """What every optimised stage has."""

    steps: Steps
    views: int = Field(1, ge=1, le=64)  # cameras per step
    # The particles' learning rates fall, as half a cosine, to this share of themselves. 1: constant, as in the paper.
    learning_rate_final: Fraction = 1.0
    # (fraction of the run from which it holds, side of the square render in pixels)
    resolution: list[tuple[Fraction, Annotated[int, Field(ge=8, le=4096)]]] = Field([(0.0, 512)], min_length=1)
    cameras: CameraConfig = CameraConfig()
    guidance: GuidanceConfig = GuidanceConfig()


class NerfConfig(StageConfig):
    """Stage 2: the radiance field, by VSD."""

    steps: Steps = 25_000
    grid_learning_rate: Rate = 1e-2
    network_learning_rate: Rate = 1e-3
    background_learning_rate: Rate = 1e-3
    random_background: Fraction = 0.5  # probability of a plain random colour behind a training view
    # Rays whose graph is held at once: the guidance sees the whole picture, and what it says of it is then
    # carried into the field patch by patch, each rendered a second time. null: all at once, no second time.
    patch: int | None = Field(None, ge=64, le=2**24)
    losses: LossWeights = LossWeights()


class GeometryConfig(StageConfig):
    """Stage 3: a tetrahedral signed-distance grid, by SDS on its normals."""

    steps: Steps = 15_000
    grid_resolution: int = Field(128, ge=8, le=512)
    extent: Positive = 0.6  # half side of the grid's box; objects have radius 0.5
    density_threshold: Positive | None = 10.0  # null: the one whose silhouettes match the field's
    learning_rate: Rate = 1e-3
    normal_consistency: Weight = 1.0
    laplacian: Weight = 1.0
    sdf_regularisation: Weight = 0.0
    smoothing: int = Field(0, ge=0, le=100)  # passes over the copied signed distances
    opacity: Weight = 0.0  # mean opacity of the views, against surfaces that swell
    guidance: GuidanceConfig = GuidanceConfig(method="sds", scale=100.0, prompt="a normal map of {prompt}")


class TextureConfig(StageConfig):
    """Stage 4: colours on the fixed mesh, by VSD."""

    steps: Steps = 30_000
    grid_learning_rate: Rate = 1e-2
    network_learning_rate: Rate = 1e-3
    random_background: Fraction = 0.5  # else white
    supersampling: int = Field(1, ge=1, le=8)  # rays per pixel and axis


class ExportConfig(Section):
    """Stage 5: a cleaned, unwrapped, baked mesh as OBJ and GLB."""

    faces: int = Field(40_000, ge=100, le=5_000_000)  # at most, after decimation
    texture_size: int = Field(2048, ge=64, le=8192)
    smoothing: int = Field(0, ge=0, le=100)  # Taubin iterations
    component_fraction: Fraction = 0.05  # smaller pieces, as a share of the largest, are dropped


class EvaluateConfig(Section):
    """Stage 6: metrics and pictures of what was exported."""

    scorer: str | None = Field(None, max_length=1000)  # CLIP layout; none: the one beside the prior
    views: int = Field(8, ge=1, le=64)
    elevation: float = Field(15.0, ge=-90, le=90)
    distance: Positive = 1.6
    fov: float = Field(45.0, gt=0, lt=180)
    resolution: int = Field(256, ge=16, le=2048)
    turntable_frames: int = Field(48, ge=2, le=1000)


class LoggingConfig(Section):
    """What is shown and saved while it runs; no result depends on it, so no stage does either."""

    preview_every: int = Field(50, ge=1, le=1_000_000)  # steps
    turntable_frames: int = Field(48, ge=2, le=1000)  # of the field, when its stage ends
    checkpoint_every: int = Field(100, ge=1, le=1_000_000)  # steps
    metrics_every: int = Field(5, ge=1, le=1_000_000)  # steps


class Config(Section):
    """All sections; a stage reads its own, `system` and `prior`."""

    system: SystemConfig = SystemConfig()
    prior: PriorConfig = PriorConfig()
    initialise: InitialiseConfig = InitialiseConfig()
    nerf: NerfConfig = NerfConfig()
    geometry: GeometryConfig = GeometryConfig()
    texture: TextureConfig = TextureConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    logging: LoggingConfig = LoggingConfig()


def merge(*layers: dict) -> dict:
    """Nested dictionaries, later ones over earlier ones; lists and scalars replace."""
    result: dict = {}
    for layer in layers:
        for key, value in (layer or {}).items():
            old = result.get(key)
            nested = isinstance(old, dict) and isinstance(value, dict)
            # An empty section (`nerf:` with nothing below it) says nothing.
            result[key] = merge(old, value) if nested else (old if value is None and isinstance(old, dict) else value)
    return result


def resolve(*layers: tuple[str, dict]) -> Config:
    """The checked configuration from (name, values) layers, later over earlier.

    Each layer is checked alone first, so that the message names the file a mistake is in. Raises
    InputError with one line: file, key, what is wrong and what is allowed.
    """
    for name, values in layers:
        if not isinstance(values, dict):
            raise InputError(f"{name}: expected sections such as 'nerf:', found {type(values).__name__}")
        check(name, merge(values))
    return check(" + ".join(name for name, _ in layers), merge(*(values for _, values in layers)))


def check(name: str, values: dict, model: type[Section] = Config) -> Section:
    """The values as a `model` (all of its sections have defaults); InputError with one line that names the file."""
    values = merge(model().model_dump(mode="json"), values)  # a section's own defaults hold when it is partly given
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{name}: unknown key '{where}'{_suggest(model, first['loc'])}") from None
        raise InputError(
            f"{name}: {where} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _suggest(model: type[Section], location: tuple) -> str:
    """The nearest known key, for a typo."""
    import difflib

    for part in location[:-1]:
        model = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return ""
    near = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(model.model_fields)}"
