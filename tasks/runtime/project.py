"""Layout of a project's files, and the dependencies of each stage.

A project is a clone of the repository, with params.yaml, presets/ and prompts/ at its root. DVC manages the outputs in
runs/<id>/<stage>/. Logs, checkpoints, previews and databases are stored in .state/, which can safely be deleted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from prolific_core import config, prompts
from prolific_core.errors import InputError
from prolific_core.prompts import Prompt
from prolific_core.yaml_reader import read_yaml


@dataclass(frozen=True)
class StageSpec:
    """Dependencies of a stage: the earlier stages, the code, and whether the stage uses the 2D prior."""

    inputs: tuple[str, ...]
    code: tuple[str, ...]
    prior: bool = False

    def sections(self, name: str) -> tuple[str, ...]:
        """Return the names of the parameter sections that the stage depends on."""
        return (name, "prior", "system") if self.prior else (name, "system")


# A change to any of these files makes every stage run again, so the list contains only files that affect results. It
# excludes the tracker, the console, the report and the flows.
_COMMON = (
    "prolific_core/cameras.py",
    "prolific_core/config.py",
    "prolific_core/files.py",
    "prolific_core/seeding.py",
    "prolific_core/view_names.py",
    "tasks/runtime/digests.py",
    "tasks/runtime/job.py",
    "tasks/runtime/machine.py",
    "tasks/runtime/stage.py",
)
# The prior's scorer and classifier are omitted, because only `evaluate` uses them.
_PIPELINE = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
_GUIDED = (
    "prolific_core/checkpoint.py",
    "prolific_core/guidance",
    "prolific_core/nonfinite.py",
    "prolific_core/optimise.py",
    "prolific_core/prior/latent_diffusion.py",
    "prolific_core/prior/loading.py",
    "prolific_core/prior/location.py",
    "prolific_core/prior/noise_schedule.py",
    *(f"prolific_core/toybox/weights/{part}" for part in _PIPELINE),
    "tasks/guided.py",
)

STAGES: dict[str, StageSpec] = {
    "initialise": StageSpec((), (*_COMMON, "prolific_core/render", "prolific_core/scenes")),
    "nerf": StageSpec(
        ("initialise",), (*_COMMON, *_GUIDED, "prolific_core/render", "prolific_core/scenes"), prior=True
    ),
    "geometry": StageSpec(
        ("nerf",),
        (*_COMMON, *_GUIDED, "prolific_core/mesh", "prolific_core/render", "prolific_core/scenes"),
        prior=True,
    ),
    "texture": StageSpec(
        ("nerf", "geometry"),
        (*_COMMON, *_GUIDED, "prolific_core/mesh", "prolific_core/render", "prolific_core/scenes"),
        prior=True,
    ),
    "export": StageSpec(
        ("geometry", "texture"), (*_COMMON, "prolific_core/mesh", "prolific_core/render", "prolific_core/scenes")
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
            "prolific_core/toybox/params.py",
            "prolific_core/toybox/world",
            "prolific_core/visualisation.py",
            "prolific_core/toybox/weights/classifier",
            "prolific_core/toybox/weights/scorer",
            "prolific_core/render",
        ),
        prior=True,
    ),
}


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise InputError("the current folder has been deleted; change to another one") from None


def code_of(stage: str) -> tuple[str, ...]:
    """Return the files and folders, relative to the root, that a stage's result depends on."""
    return tuple(sorted((f"tasks/{stage}.py", *STAGES[stage].code)))


def models_of(stage: str, root: Path, values: config.Config) -> tuple[str, ...]:
    """Return the folders or files of all models that a stage loads, relative to `root` if they are inside it.

    The packaged weights are not among them, because they belong to the stage's code. Neither are models on a hub, whose
    files are not in the project.
    """
    if not STAGES[stage].prior:
        return ()
    if stage == "evaluate":
        folders = [values.evaluate.scorer or f"{values.prior.path}/scorer"]
    else:
        models = [values.prior.path, getattr(values, stage).guidance.score.base]
        folders = [f"{model}/{part}" for model in models if model for part in _PIPELINE]
        folders += [model for model in models if model and (root / Path(model).expanduser()).is_file()]
    found = {root / Path(folder).expanduser() for folder in folders}
    inside = {path.relative_to(root) if path.is_relative_to(root) else path for path in found if path.exists()}
    return tuple(sorted({path.as_posix() for path in inside} - set(code_of(stage))))


@dataclass(frozen=True)
class Project:
    """Root folder of a project, with methods that return paths and read prompts."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """Find the project in $PROLIFIC_ROOT or, if it is not set, the nearest enclosing project.

        If no enclosing project exists, the clone that contains this file is returned.
        """
        if given := os.environ.get("PROLIFIC_ROOT"):
            candidates = [Path(given).expanduser().resolve()]
        else:
            here = (start or _current_folder()).resolve()
            candidates = [here, *here.parents, Path(__file__).resolve().parents[2]]
        for folder in candidates:
            if (folder / "params.yaml").is_file() and (folder / "presets").is_dir():
                return cls(folder)
        raise InputError(
            f"no project at {candidates[0]}: it must contain params.yaml and presets/; "
            "change to your clone or set PROLIFIC_ROOT to its path"
        )

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
        return sorted(path.stem for path in self.root.glob("presets/*.yaml"))

    def shared_config(self) -> config.Config:
        """Return the validated parameters of params.yaml, without those of a preset or a prompt."""
        values = read_yaml(self.root / "params.yaml", "params.yaml") or {}
        return config.resolve(("params.yaml", values))  # pyright: ignore[reportArgumentType] (resolve checks the type)

    def config(self, prompt: Prompt) -> config.Config:
        """Return the validated configuration of a prompt.

        The preset overrides params.yaml, and the prompt overrides both.
        """
        preset = f"presets/{prompt.preset}.yaml"
        if prompt.preset not in self.presets():
            raise InputError(
                f"no preset '{prompt.preset}' ({preset} does not exist); the presets are: {', '.join(self.presets())}"
            )
        return config.resolve(
            ("params.yaml", read_yaml(self.root / "params.yaml", "params.yaml") or {}),
            (preset, read_yaml(self.root / preset, preset) or {}),
            (f"prompts/{prompt.id}/prompt.yaml", prompt.sections),
        )

    def resolve(self, id: str) -> "ResolvedPrompt":
        """Read a prompt and its configuration from their files."""
        prompt = self.prompt(id)
        return ResolvedPrompt(self, prompt, self.config(prompt))


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
