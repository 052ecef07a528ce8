"""Layout of a project's files, and the dependencies of each stage.

A project is a clone of the repository, with params.yaml, presets/, systems/ and prompts/ at its root. DVC manages the
outputs in runs/<id>/<stage>/. Logs, checkpoints, previews and databases are stored in .state/, which can safely be
deleted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prolific_core import config, config_layers, prompts
from prolific_core.errors import InputError, quote, shorten
from prolific_core.prompts import Prompt
from prolific_core.yaml_reader import read_yaml
from tasks.runtime.imports import imported_modules, module_file
from tasks.runtime.root import find_root, preset_names, system_names


@dataclass(frozen=True)
class StageSpec:
    """Dependencies of a stage, and the files of its output that DVC's metrics and plots show.

    Attributes:
        inputs: Earlier stages whose outputs the stage reads.
        code: Files and folders that the result depends on. Those of the guidance are derived by `code_of`.
        prior: Whether the stage uses the 2D prior.
        metrics: Whether `metrics.json` describes the finished model.
        curves: Values in `curve.json` to plot over the steps.
        images: Images to plot.
    """

    inputs: tuple[str, ...]
    code: tuple[str, ...]
    prior: bool = False
    metrics: bool = False
    curves: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def sections(self, name: str) -> tuple[str, ...]:
        """Return the names of the parameter sections that the stage depends on."""
        return (name, "prior", "system") if self.prior else (name, "system")


# A change to any of these files makes every stage run again, so the list contains only files that affect results. It
# excludes the tracker, the console, the report and the flows.
_COMMON = (
    "prolific_core/cameras.py",
    "prolific_core/config.py",
    "prolific_core/config_layers.py",
    "prolific_core/files.py",
    "prolific_core/seeding.py",
    "prolific_core/view_names.py",
    "tasks/runtime/curve.py",
    "tasks/runtime/digests.py",
    "tasks/runtime/job.py",
    "tasks/runtime/machine.py",
    "tasks/runtime/manifest.py",
    "tasks/runtime/stage.py",
)
#: Modules that only find a run's files and report how it went. They do not affect results.
NO_RESULT = frozenset(
    {
        "prolific_core.discovery",
        "prolific_core.errors",
        "prolific_core.memory",
        "prolific_core.prompts",
        "prolific_core.visualisation",
        "prolific_core.yaml_reader",
        "tasks.runtime.console",
        "tasks.runtime.failures",
        "tasks.runtime.imports",
        "tasks.runtime.locks",
        "tasks.runtime.project",
        "tasks.runtime.records",
        "tasks.runtime.revision",
        "tasks.runtime.root",
        "tasks.runtime.unrecorded",
        "tasks.runtime.usage",
    }
)
# The prior's scorer and classifier are omitted, because only `evaluate` uses them.
_PIPELINE = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
_SECOND_TEXT_ENCODER = ("text_encoder_2", "tokenizer_2")
_GUIDED = (
    "prolific_core/checkpoint.py",
    "prolific_core/optimise.py",
    "prolific_core/prior/kinds.py",
    "prolific_core/prior/latent_diffusion.py",
    "prolific_core/prior/latent_diffusion_xl.py",
    "prolific_core/prior/location.py",
    "prolific_core/prior/multi_view.py",
    "prolific_core/prior/noise_schedule.py",
    "prolific_core/prior/parts.py",
    *(f"prolific_core/toybox/weights/{part}" for part in _PIPELINE),
    "tasks/guided.py",
)

STAGES: dict[str, StageSpec] = {
    "initialise": StageSpec((), (*_COMMON, "prolific_core/render", "prolific_core/scenes")),
    "nerf": StageSpec(
        ("initialise",),
        (*_COMMON, *_GUIDED, "prolific_core/render", "prolific_core/scenes"),
        prior=True,
        curves=("loss", "opacity"),
    ),
    "geometry": StageSpec(
        ("nerf",),
        (*_COMMON, *_GUIDED, "prolific_core/mesh", "prolific_core/render", "prolific_core/scenes"),
        prior=True,
        curves=("loss", "opacity"),
    ),
    "texture": StageSpec(
        ("nerf", "geometry"),
        (*_COMMON, *_GUIDED, "prolific_core/mesh", "prolific_core/render", "prolific_core/scenes"),
        prior=True,
        curves=("loss",),
    ),
    "export": StageSpec(
        ("geometry", "texture"),
        (*_COMMON, "prolific_core/mesh", "prolific_core/render", "prolific_core/scenes"),
        metrics=True,
    ),
    "evaluate": StageSpec(
        ("export",),
        (
            *_COMMON,
            "prolific_core/mesh",
            "prolific_core/metrics",
            "prolific_core/prior/location.py",
            "prolific_core/prior/scorer.py",
            "prolific_core/toybox/evaluation/classifier.py",
            "prolific_core/toybox/evaluation/agreement.py",
            "prolific_core/toybox/evaluation/ground_truth.py",
            "prolific_core/toybox/evaluation/shape.py",
            "prolific_core/toybox/params.py",
            "prolific_core/toybox/world",
            "prolific_core/visualisation.py",
            "prolific_core/toybox/weights/classifier",
            "prolific_core/toybox/weights/scorer",
            "prolific_core/render",
        ),
        prior=True,
        metrics=True,
        images=("contact.png",),
    ),
}


def code_of(stage: str, root: Path, values: config.Config) -> tuple[str, ...]:
    """Return the files and folders, relative to the root, that a stage's result depends on.

    The files of the guidance are those that the stage's method and composition import, so that a stage does not run
    again if a file of another method is added or changed.
    """
    listed = (f"tasks/{stage}.py", *STAGES[stage].code)
    guidance = getattr(getattr(values, stage), "guidance", None)
    if guidance is None:
        return tuple(sorted(listed))
    chosen = (f"prolific_core.guidance.{guidance.method}", f"prolific_core.guidance.combine.{guidance.combine}")
    modules = {name for start in (f"tasks.{stage}", *chosen) for name in imported_modules(start, root, NO_RESULT)}
    files = {file.relative_to(root) for name in modules if (file := module_file(name, root))}
    covered = {Path(path) for path in listed}
    derived = {file for file in files if file.name != "__init__.py" and covered.isdisjoint([file, *file.parents])}
    return tuple(sorted({*listed, *(file.as_posix() for file in derived)}))


def models_of(stage: str, root: Path, values: config.Config) -> tuple[str, ...]:
    """Return the folders or files of all models and meshes that a stage loads, relative to `root` if inside it.

    The packaged weights are not among them, because they belong to the stage's code. Neither are models on a hub, whose
    files are not in the project.
    """
    if not STAGES[stage].prior:
        return ()
    if stage == "evaluate":
        folders = [values.evaluate.scorer or f"{values.prior.path}/scorer"]
    else:
        models = [values.prior.path, getattr(values, stage).guidance.score.base]
        folders = [f"{model}/{part}" for model in models if model for part in (*_PIPELINE, *_SECOND_TEXT_ENCODER)]
        folders += [model for model in models if model and (root / Path(model).expanduser()).is_file()]
        if stage == "geometry" and values.geometry.start not in ("field", "ellipsoid"):
            folders.append(values.geometry.start)
    found = {root / Path(folder).expanduser() for folder in folders}
    inside = {path.relative_to(root) if path.is_relative_to(root) else path for path in found if path.exists()}
    return tuple(sorted({path.as_posix() for path in inside} - set(STAGES[stage].code)))


@dataclass(frozen=True)
class Project:
    """Root folder of a project, with methods that return paths and read prompts."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """Find the project that encloses `start`, by default the current folder; see `find_root`."""
        return cls(find_root(start))

    @property
    def state(self) -> Path:
        return self.root / ".state"

    def report(self, id: str) -> Path:
        return self.root / "reports" / f"{id}.html"

    def stage_state(self, id: str, stage: str) -> Path:
        return self.state / id / stage

    def output(self, id: str, stage: str) -> Path:
        return self.root / "runs" / id / stage

    def prompt_folder(self, id: str) -> Path:
        return self.root / "prompts" / id

    def has_prompt(self, id: str) -> bool:
        return (self.prompt_folder(id) / "prompt.yaml").is_file()

    def require_prompt(self, id: str) -> None:
        """Raise an InputError if the file of a prompt does not exist. The file itself is not read."""
        prompts.check_id(id)
        if not self.has_prompt(id):
            known = ", ".join(self.prompt_ids()[:8]) or "none yet"
            raise InputError(
                f"no prompt '{id}' (prompts/{id}/prompt.yaml does not exist); the prompts are: {known}; "
                'create one with: prolific generate "TEXT"'
            )

    def finished_stages(self, id: str) -> int:
        """Return the number of finished stages of a prompt."""
        return sum((self.output(id, stage) / "manifest.json").is_file() for stage in STAGES)

    def prompt(self, id: str) -> Prompt:
        """Read a prompt from its file. Raises an InputError if the file does not exist or is invalid."""
        self.require_prompt(id)
        shown = f"prompts/{id}/prompt.yaml"
        prompt = prompts.parse(shown, read_yaml(self.root / shown, shown))
        if prompt.id != id:
            raise InputError(f"{shown}: id must be the name of its folder, '{id}', got {prompt.id!r}")
        return prompt

    def prompt_ids(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("prompts/*/prompt.yaml"))

    def presets(self) -> list[str]:
        return preset_names(self.root)

    def systems(self) -> list[str]:
        return system_names(self.root)

    def shared_config(self) -> config.Config:
        """Return the validated parameters of params.yaml, without those of a preset or a prompt."""
        values = read_yaml(self.root / "params.yaml", "params.yaml") or {}
        return config_layers.resolve(("params.yaml", values))  # pyright: ignore[reportArgumentType] (resolve checks the type)

    def config(self, prompt: Prompt) -> config.Config:
        """Return the validated configuration of a prompt.

        The preset overrides params.yaml, the system overrides the preset, and the prompt overrides all of them. Prompts
        of a sweep often have the same values, which are validated once.
        """
        layers = self.layers(prompt)
        key = repr([values for _, values in layers])
        if key not in _validated:
            if len(_validated) >= 64:
                _validated.clear()
            _validated[key] = config_layers.resolve(*layers)
        return _validated[key]

    def layers(self, prompt: Prompt) -> list[tuple[str, Any]]:
        """Return the names and the values of params.yaml, the prompt's preset and system and the prompt's own sections.

        The presets that the prompt's preset extends come before it.
        """
        return [
            ("params.yaml", read_yaml(self.root / "params.yaml", "params.yaml") or {}),
            *self.preset_layers(prompt.preset),
            *self.system_layers(prompt.system_name),
            (f"prompts/{prompt.id}/prompt.yaml", prompt.sections),
        ]

    def preset_layers(self, name: str) -> list[tuple[str, Any]]:
        """Return the file names and the values of a preset and of all presets that it extends, the most general first.

        A preset extends another one, whose values it overrides, if its file has the key `extends`.
        """
        layers, next_name, read_by = [], name, ""
        while next_name is not None:
            shown = f"presets/{next_name}.yaml"
            if next_name not in self.presets():
                raise InputError(
                    f"{read_by}no preset {quote(next_name)} ({shorten(shown)} does not exist); the presets are: "
                    f"{', '.join(self.presets())}"
                )
            if any(shown == file for file, _ in layers):
                raise InputError(f"{read_by}the presets extend each other in a circle")
            values = read_yaml(self.root / shown, shown) or {}
            next_name, read_by = (values.pop("extends", None) if isinstance(values, dict) else None), f"{shown}: "
            layers.insert(0, (shown, values))
        return layers

    def system_layers(self, name: str) -> list[tuple[str, Any]]:
        """Return the file name and the values of a system, in a list that is empty if `name` is."""
        if not name:
            return []
        shown = f"systems/{name}.yaml"
        if name not in self.systems():
            raise InputError(
                f"no system {quote(name)} ({shorten(shown)} does not exist); the systems are: "
                f"{', '.join(self.systems()) or 'none yet'}"
            )
        return [(shown, read_yaml(self.root / shown, shown) or {})]

    def resolve(self, id: str) -> "ResolvedPrompt":
        """Read a prompt and its configuration from their files."""
        prompt = self.prompt(id)
        return ResolvedPrompt(self, prompt, self.config(prompt))


_validated: dict[str, config.Config] = {}  # by the values of all layers


@dataclass(frozen=True)
class ResolvedPrompt:
    """Prompt with its configuration.

    Both are read once at the start of a run, so that the whole run uses the same values.
    """

    project: Project
    prompt: Prompt
    config: config.Config

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def pipeline(self) -> str:
        """Path of the prompt's DVC pipeline, relative to the project root."""
        return f"prompts/{self.id}/dvc.yaml"

    def output(self, stage: str) -> Path:
        return self.project.output(self.id, stage)

    def state(self, stage: str) -> Path:
        return self.project.stage_state(self.id, stage)
