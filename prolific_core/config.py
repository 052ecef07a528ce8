"""All parameters of a run, with units, defaults and bounds.

params.yaml, presets and prompts are validated against these classes (`config_layers.py`). Each stage has its own
section, so that DVC re-runs a stage only if its own parameters change. The defaults are those of the ProlificDreamer
paper (arXiv 2305.16213) if the paper specifies a value.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from prolific_core import discovery

Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
Distance = Annotated[float, Field(gt=0, le=1000)]  # world units
Fov = Annotated[float, Field(gt=0, lt=180)]  # degrees
Elevation = Annotated[float, Field(ge=-90, le=90)]  # degrees


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    """Return a range unchanged, or raise ValueError if its first bound is above the second."""
    if pair[0] > pair[1]:
        raise ValueError(f"a range must go from low to high, got {pair[0]} to {pair[1]}")
    return pair


def from_the_start(schedule: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return a schedule unchanged, or raise ValueError if it does not begin at 0 or if its entries are not ordered."""
    starts = [start for start, _ in schedule]
    if starts[0] != 0:
        raise ValueError(f"the first entry of a schedule must start at 0, got {starts[0]}")
    if any(first >= second for first, second in zip(starts, starts[1:])):
        raise ValueError("the entries of a schedule must be in the order of their starts")
    return schedule


def _one_of(known: Callable[[], list[str]]) -> AfterValidator:
    """Return a validator that accepts only the names returned by `known`."""

    def check(name: str) -> str:
        if name not in known():
            raise ValueError(f"must be one of {', '.join(known())}")
        return name

    return AfterValidator(check)


class Section(BaseModel):
    """Base class of all groups of parameters. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


def _known_options(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options of methods and compositions, checked against the classes `Options` in their modules."""
    classes = {name: discovery.options(name) for name in values}
    if unknown := [name for name, options in classes.items() if options is None]:
        names = [*discovery.guidance_methods(), *discovery.score_compositions()]
        known = ", ".join(name for name in names if discovery.options(name))
        raise ValueError(f"'{unknown[0]}' has no options; those that have are {known}")
    fields: dict[str, Any] = {name: (options, ...) for name, options in classes.items()}
    checked = create_model("Options", __base__=Section, **fields).model_validate_json(json.dumps(values), strict=True)
    return checked.model_dump(mode="json", exclude_unset=True)


class SystemConfig(Section):
    """Device, number of threads and kernel backend.

    The number of threads never depends on the machine, because it affects the order of additions and therefore the
    results.
    """

    # `auto` is the first GPU if there is one; cuda:1 is the second GPU.
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")
    threads: int = Field(default=1, ge=1, le=256)
    backend: Literal["auto", "warp", "torch", "cuda"] = "auto"  # implementation of the render kernels
    deterministic: bool = False  # deterministic algorithms on a GPU, which are slower; the CPU always uses them


class PriorConfig(Section):
    """Options for loading the 2D diffusion model."""

    # `toybox` (the packaged model), a folder, or a model id on the Hugging Face hub.
    path: str = Field(default="toybox", min_length=1, max_length=1000)
    # Data type of the frozen weights; trained weights are always float32. `auto` is float32 on the CPU, bfloat16 on a
    # GPU that has it, and float16 on older GPUs. float16 overflows above 65504, bfloat16 does not.
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = "float32"
    # Process images one at a time in the autoencoder. This saves memory if a step has several views.
    vae_slicing: bool = False
    gradient_checkpointing: bool = False  # recompute activations in the backward pass to save memory
    torch_compile: bool = False  # compile the U-Net on its first call; this takes minutes


class TimeConfig(Section):
    """Distribution of the diffusion time t ~ U(minimum, upper), as a fraction of the prior's number of time steps.

    The upper bound changes from `maximum` to `final` over the run. With `anneal: step`, it switches at the fraction
    `switch_at` of the run, as in the paper. With `linear`, `sqrt` or `cosine`, it changes continuously as that function
    of the run's progress. With `none`, it stays at `maximum`.
    """

    minimum: Fraction = 0.02
    maximum: Fraction = 0.98
    final: Fraction = 0.5
    anneal: Literal["step", "sqrt", "linear", "cosine", "none"] = "step"
    switch_at: Fraction = 0.2

    @model_validator(mode="after")
    def _check_order(self) -> "TimeConfig":
        if self.minimum > self.maximum or (self.anneal != "none" and self.minimum > self.final):
            raise ValueError("minimum must not be above maximum or final")
        return self


class ScoreConfig(Section):
    """Trainable score network of VSD, either LoRA on the prior's U-Net or a small separate U-Net."""

    kind: Literal["lora", "unet"] = "lora"
    # Pipeline to use as the base instead of the prior; the paper uses Stable Diffusion 2.1 (v-prediction).
    base: str | None = Field(default=None, max_length=1000)
    # Prediction type of the training loss; null selects the base's type for `lora` and v_prediction for `unet`.
    prediction: Literal["epsilon", "v_prediction"] | None = None
    rank: int = Field(default=4, ge=1, le=256)  # used with `kind: lora`
    # Distribution of LoRA's initial down projections: `kaiming` is U(-1, 1) / sqrt(inputs), as in peft, and `gaussian`
    # is N(0, 1 / rank^2), as in the official release.
    initialisation: Literal["kaiming", "gaussian"] = "kaiming"
    # Layers that LoRA adapts. `attention` selects the query, key, value and output projections, as in the paper. `all`
    # selects every convolution and linear layer. A list selects the layers whose names end with one of its entries.
    targets: Literal["attention", "all"] | list[Annotated[str, Field(min_length=1, max_length=200)]] = "attention"
    channels: list[Annotated[int, Field(ge=8, le=2048, multiple_of=8)]] = Field(
        default=[32, 64, 128], min_length=1, max_length=6
    )  # channels of each level, used with `kind: unet`
    learning_rate: Rate = 1e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # betas of AdamW
    weight_decay: Rate = 0.0  # decoupled weight decay of AdamW, as a fraction per step and unit of the learning rate
    warmup: int = Field(default=0, ge=0, le=100_000)  # steps of linear learning rate warm-up
    steps: int = Field(default=1, ge=1, le=100)  # training steps per particle step
    camera_dropout: Fraction = 0.1  # probability of omitting the camera embedding of a training sample
    # Reuse the score network's forward pass of the particle step in the first training step. This saves one evaluation
    # of the U-Net. The training step then uses the noise and time steps of the particle step, with times drawn from the
    # annealed range, and no camera dropout.
    share_pass: bool = False


class GuidanceConfig(Section):
    """Parameters of the distillation gradient on rendered images."""

    # Name of a module in guidance/.
    method: Annotated[str, _one_of(discovery.guidance_methods)] = "vsd"
    # Name of a module in guidance/combine/.
    combine: Annotated[str, _one_of(discovery.score_compositions)] = "cfg"
    # Scale of classifier-free guidance, unconditional + scale * (conditional - unconditional).
    scale: float = Field(default=7.5, ge=0, le=1000)
    rescale: Fraction = 0.7  # weight phi of the rescaled prediction, used with `combine: rescale`
    # Options of single methods and compositions by their names, for example {ism: {interval: 0.05}}. Each is a field of
    # the class `Options` in the module of its method or composition, which has the unit, the default and the bounds.
    options: Annotated[dict[str, dict[str, Any]], AfterValidator(_known_options)] = Field(default={})
    # Range of t in which guidance is applied, in fractions of the number of time steps (arXiv 2404.07724). Outside this
    # range, only the conditional prediction is evaluated, which corresponds to scale 1. null applies guidance at all t.
    interval: Annotated[tuple[Fraction, Fraction], AfterValidator(ordered)] | None = None
    # Weight w(t) of the gradient.
    weighting: Literal["one_minus_alpha_bar", "uniform", "alpha_sigma_squared", "sigma_over_alpha"] = (
        "one_minus_alpha_bar"
    )
    prompt: str = Field(default="{prompt}", max_length=200)  # template, for example "a normal map of {prompt}"
    negative_prompt: str = Field(default="", max_length=500)
    # View-dependent prompting. `true` appends the paper's words, chosen by azimuth and elevation. `interpolated`
    # interpolates their embeddings by azimuth (DreamFusion). `precise` also tells left from right and names the height.
    # It is always disabled in 360-degree scenes, whose cameras are inside the scene.
    view_prompts: bool | Literal["interpolated", "precise"] = True
    time: TimeConfig = TimeConfig()
    score: ScoreConfig = ScoreConfig()

    def options_of(self, kind: type[AnySection]) -> AnySection:
        """Return the options of a method or composition.

        Args:
            kind: The class `Options` in its module.

        Returns:
            The options, with the defaults of those that are not set.
        """
        return kind.model_validate(self.options.get(kind.__module__.rpartition(".")[2], {}))


class CameraConfig(Section):
    """Distribution of the training cameras around an object in [-1, 1]^3."""

    distance: Annotated[tuple[Distance, Distance], AfterValidator(ordered)] = (1.0, 1.5)
    fov: Annotated[tuple[Fov, Fov], AfterValidator(ordered)] = (40.0, 70.0)
    elevation: Annotated[tuple[Elevation, Elevation], AfterValidator(ordered)] = (-30.0, 90.0)
    uniform_probability: Fraction = 0.5  # probability of a uniform position on the upper hemisphere
    # Whether the views of a step are evenly spaced around the object, at one elevation, distance and field of view, as
    # multi-view priors need them.
    orbit: bool = False


class FieldConfig(Section):
    """Radiance field that consists of a multiresolution hash grid and two small MLPs."""

    levels: int = Field(default=16, ge=1, le=32)
    features: Literal[1, 2, 4, 8] = 2  # number per level
    log2_entries: int = Field(default=19, ge=4, le=24)  # log2 of the maximum number of entries per level
    base_resolution: int = Field(default=16, ge=2, le=512)  # cells per side
    max_resolution: int = Field(default=2048, ge=2, le=65536)  # cells per side
    interpolation: Literal["smoothstep", "linear"] = "smoothstep"
    hidden_width: int = Field(default=64, ge=4, le=512)
    hidden_layers: int = Field(default=1, ge=1, le=8)
    bound: float = Field(default=1.0, gt=0, le=100)  # half the side of the field's box, in world units
    scene: Literal["object", "scene", "object-in-scene"] = "object"
    density_scale: float = Field(default=10.0, ge=-1000, le=1000)  # lambda of the initial density
    density_radius: Positive = 0.5  # r of the initial density, in world units
    density_noise: Weight = 1.0  # standard deviation of the training noise before the activation
    background: Literal["network", "white", "grey", "black"] = "network"
    occupancy_resolution: int = Field(default=32, ge=4, le=512)  # cells per side
    occupancy_threshold: Weight = 0.01
    samples_per_ray: int = Field(default=512, ge=4, le=4096)  # number along the box's diagonal, including empty space
    # Additional samples per ray, placed where the first ones have large weights. The paper uses 64 + 32.
    importance_samples: int = Field(default=0, ge=0, le=1024)


class InitialiseConfig(Section):
    """Stage 1: create the particles' radiance fields."""

    particles: int = Field(default=1, ge=1, le=64)
    field: FieldConfig = FieldConfig()
    preview_resolution: int = Field(default=128, ge=16, le=2048)  # pixels


class LossWeights(Section):
    """Weights of the radiance field's regularisers (`scenes/regularisers.py`)."""

    opacity: Weight = 0.0
    # Weight of the opacity loss at the end of the run. The weight changes linearly over the run, because the guidance
    # gradient decreases with t. null keeps the weight constant.
    opacity_end: Weight | None = None
    sparsity: Weight = 0.0
    entropy: Weight = 10.0
    orientation: Weight = 0.0

    def opacity_at(self, progress: float) -> float:
        """Return the weight of the opacity loss at a given progress.

        Args:
            progress: Fraction of the run in [0, 1].

        Returns:
            The weight, between `opacity` and `opacity_end`.
        """
        end = self.opacity if self.opacity_end is None else self.opacity_end
        return self.opacity + (end - self.opacity) * progress


class ShadingConfig(Section):
    """Shading of a field or surface by a point light near the camera (DreamFusion, arXiv 2209.14988, section 3.2).

    A shaded step shows the colour as the albedo of a surface that is lit, or a white surface, which shows the shape
    alone (`scenes/shading.py`). Other renders are not shaded, so that previews, mesh and texture show the albedo.
    """

    probability: Fraction = 0.0  # probability that a step is shaded; 0 shows the colours alone, as ProlificDreamer does
    textureless: Fraction = 0.5  # probability that a shaded step shows a white surface
    start: Fraction = 0.0  # fraction of the run before the first shaded step
    ramp: Fraction = 0.0  # fraction of the run in which the probability increases linearly from 0, after `start`
    ambient: Fraction = 0.1  # ambient light; the point light has the rest
    soft: bool = False  # draw the ambient light of each step from U(0, 1) instead


class StageConfig(Section):
    """Parameters shared by all optimisation stages."""

    steps: Steps
    views: int = Field(default=1, ge=1, le=64)  # cameras per step
    # Final learning rates of the particles as a fraction of the initial ones. The decay follows half a cosine. The
    # value 1 keeps the learning rates constant, as in the paper.
    learning_rate_final: Fraction = 1.0
    # Pairs (start, resolution): the fraction of the run from which a resolution applies, and the height and width of
    # the training renders in pixels.
    resolution: Annotated[
        list[tuple[Fraction, Annotated[int, Field(ge=8, le=4096)]]], Field(min_length=1), AfterValidator(from_the_start)
    ] = [(0.0, 512)]
    cameras: CameraConfig = CameraConfig()
    guidance: GuidanceConfig = GuidanceConfig()


class NerfConfig(StageConfig):
    """Stage 2: optimise the radiance field by VSD."""

    steps: Steps = 25_000  # 0 keeps the initial field, for systems that do not use it
    grid_learning_rate: Rate = 1e-2
    network_learning_rate: Rate = 1e-3
    background_learning_rate: Rate = 1e-3
    random_background: Fraction = 0.5  # probability of a random plain background in a training view
    random_background_after: int = Field(default=0, ge=0, le=1_000_000)  # steps before the first random background
    # Number of rays whose autograd graph is kept in memory at once. The guidance is computed on the whole image. Its
    # gradient is then backpropagated patch by patch, and each patch is rendered a second time. null processes all rays
    # at once.
    patch: int | None = Field(default=None, ge=64, le=2**24)
    losses: LossWeights = LossWeights()
    shading: ShadingConfig = ShadingConfig()


class GeometryConfig(StageConfig):
    """Stage 3: optimise a tetrahedral signed-distance grid by SDS on its normals."""

    steps: Steps = 15_000  # 0 passes the extracted surface on
    # Shape at the start: `field` extracts it from the radiance field, `ellipsoid` ignores the field, and so does the
    # path of a closed mesh (.glb, .gltf, .obj, .off, .ply or .stl with y up and the front at +z), which is moved to the
    # origin and scaled to a radius of .5.
    start: str = Field(default="field", min_length=1, max_length=1000)
    # Semi-axes in world units along x (to the front), y and z (up).
    ellipsoid: tuple[Positive, Positive, Positive] = (0.4, 0.4, 0.4)
    grid_resolution: int = Field(default=128, ge=8, le=512)  # cubes per side
    # Half the side of the grid's box, in world units; objects have radius 0.5. null measures the box of the field.
    extent: Positive | None = None
    # Density at the surface per world unit. null places the surface of an object where its inside begins to be hidden
    # (`scenes/optical_depth.py`), at the level that best matches the field's silhouettes.
    density_threshold: Positive | None = 2.5
    learning_rate: Rate = 5e-3  # of the signed distances and the deformation
    normal_consistency: Weight = 5000.0
    laplacian: Weight = 0.05
    sdf_regularisation: Weight = 0.0
    smoothing: int = Field(default=0, ge=0, le=100)  # smoothing passes over the initial signed distances
    opacity: Weight = 0.0  # weight of the mean opacity, which prevents surfaces from growing
    colours: bool = False  # optimise the colours, too, by guidance on colour renders instead of normals (Magic3D)
    shading: ShadingConfig = ShadingConfig()  # of the colour renders
    grid_learning_rate: Rate = 1e-2  # of the colours, as the two parameters below
    network_learning_rate: Rate = 1e-3
    random_background: Fraction = 0.5  # probability of a random plain background instead of white
    cameras: CameraConfig = CameraConfig(fov=(30.0, 60.0))
    guidance: GuidanceConfig = GuidanceConfig(
        method="sds", scale=100.0, prompt="a normal map of {prompt}", time=TimeConfig(maximum=0.5, anneal="none")
    )


class TextureConfig(StageConfig):
    """Stage 4: optimise the colours of the fixed mesh by VSD."""

    steps: Steps = 30_000  # 0 keeps the fitted colours
    # Steps before the guidance, in which the colours are fitted to the renders of the radiance field; see
    # `scenes/colour_fit.py`. 0 starts from the field's colours at the points of the surface.
    fit_steps: int = Field(default=200, ge=0, le=100_000)
    # `colour` optimises colours that contain light and shadow. `pbr` optimises base colour, roughness and metalness
    # under lights that stay the same in all renders (`render/mesh/lights.py`), as in Fantasia3D.
    material: Literal["colour", "pbr"] = "colour"
    grid_learning_rate: Rate = 1e-2
    network_learning_rate: Rate = 1e-3
    random_background: Fraction = 0.5  # probability of a random plain background instead of white
    supersampling: int = Field(default=1, ge=1, le=8)  # rays per pixel along each axis
    cameras: CameraConfig = CameraConfig(fov=(30.0, 60.0))
    guidance: GuidanceConfig = GuidanceConfig(time=TimeConfig(maximum=0.5, anneal="none"))


class ExportConfig(Section):
    """Stage 5: clean, unwrap and bake the mesh, and write it as OBJ and GLB."""

    faces: int = Field(default=40_000, ge=100, le=5_000_000)  # maximum number, enforced by decimation
    texture_size: int = Field(default=2048, ge=64, le=8192)  # pixels
    # Time limit of the unwrapping in seconds. xatlas takes minutes for hundreds of thousands of faces.
    unwrap_seconds: float = Field(default=600.0, gt=0, le=86_400)
    # `unlit` for colours that contain light and shadow, as those of a 2D prior do. `lit` for colours of the surface
    # alone, which a viewer then lights: a rough, non-metallic material. Materials (`texture.material: pbr`) are always
    # lit.
    material: Literal["unlit", "lit"] = "unlit"
    smoothing: int = Field(default=0, ge=0, le=100)  # Taubin iterations
    component_fraction: Fraction = 0.05  # components smaller than this fraction of the largest one are removed
    # Point of the object that is the origin of the files: `center` is the centre of the box in which the object was
    # optimised, and `feet` is the centre of the bottom of the object's bounding box, so that it stands on the ground.
    origin: Literal["center", "feet"] = "center"


class EvaluateConfig(Section):
    """Stage 6: compute metrics and images of the exported model."""

    scorer: str | None = Field(default=None, max_length=1000)  # CLIP folder or model id; null uses the prior's scorer
    views: int = Field(default=8, ge=1, le=64)
    elevation: Elevation = 15.0
    distance: Positive = 1.4  # world units
    fov: Fov = 45.0
    resolution: int = Field(default=256, ge=16, le=2048)  # pixels
    turntable_frames: int = Field(default=48, ge=2, le=1000)


class LoggingConfig(Section):
    """Intervals of previews, checkpoints and metrics. Changing them neither affects results nor re-runs a stage."""

    preview_every: int = Field(default=50, ge=1, le=1_000_000)  # steps
    turntable_frames: int = Field(default=48, ge=2, le=1000)  # for the video at the end of stage 2
    checkpoint_every: int = Field(default=100, ge=1, le=1_000_000)  # steps
    metrics_every: int = Field(default=5, ge=1, le=1_000_000)  # steps


class Config(Section):
    """Complete configuration of a run. Each stage reads `system`, `prior` and its own section."""

    system: SystemConfig = SystemConfig()
    prior: PriorConfig = PriorConfig()
    initialise: InitialiseConfig = InitialiseConfig()
    nerf: NerfConfig = NerfConfig()
    geometry: GeometryConfig = GeometryConfig()
    texture: TextureConfig = TextureConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    logging: LoggingConfig = LoggingConfig()
