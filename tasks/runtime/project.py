"""Where everything of a project lies, and what each stage reads: its inputs, sections and code.

A project is a clone: params.yaml, presets/ and prompts/ at its root. Outputs go to
runs/<id>/<stage>/ (DVC's); logs, checkpoints, previews and databases to .state/ (nobody's, safe
to delete).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from prolific_core import config, prompts
from prolific_core.errors import InputError
from prolific_core.prompts import Prompt


@dataclass(frozen=True)
class StageSpec:
    """What a stage's result depends on. `prior`: whether it asks the 2D model."""

    inputs: tuple[str, ...]
    code: tuple[str, ...]
    prior: bool = False

    def sections(self, name: str) -> tuple[str, ...]:
        """The sections of the parameters that re-run it."""
        return (name, "prior", "system") if self.prior else (name, "system")


# Any change of these re-runs everything; keep the list to what decides results. The tracker, the
# console, the report and the flows are not in it.
_COMMON = (
    "prolific_core/cameras.py",
    "prolific_core/config.py",
    "prolific_core/files.py",
    "prolific_core/seeding.py",
    "tasks/runtime/job.py",
    "tasks/runtime/machine.py",
    "tasks/runtime/stage.py",
)
# The scorer and the judge beside them decide no shape: a better judge re-runs `evaluate` only.
_PIPELINE = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
_GUIDED = (
    "prolific_core/checkpoint.py",
    "prolific_core/guidance",
    "prolific_core/optimise.py",
    "prolific_core/prior/latent_diffusion.py",
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
            "prolific_core/checkpoint.py",
            "prolific_core/toybox/files.py",
            "prolific_core/toybox/params.py",
            "prolific_core/toybox/training/loop.py",
            "prolific_core/toybox/training/shards.py",
            "prolific_core/toybox/world",
            "prolific_core/visualisation.py",
            "prolific_core/toybox/weights/classifier",
            "prolific_core/toybox/weights/scorer",
            "prolific_core/render",
        ),
        prior=True,
    ),
}


def code_of(stage: str) -> tuple[str, ...]:
    """The files and folders, relative to the root, whose change makes a stage's results stale."""
    return tuple(sorted((f"tasks/{stage}.py", *STAGES[stage].code)))


@dataclass(frozen=True)
class Project:
    """The folder layout, in one place."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """$PROLIFIC_ROOT, else the nearest folder above with params.yaml and presets/, else this clone."""
        if given := os.environ.get("PROLIFIC_ROOT"):
            candidates = [Path(given).expanduser().resolve()]
        else:
            here = (start or Path.cwd()).resolve()
            candidates = [here, *here.parents, Path(__file__).resolve().parents[2]]
        for folder in candidates:
            if (folder / "params.yaml").is_file() and (folder / "presets").is_dir():
                return cls(folder)
        raise InputError(
            f"no project at {candidates[0]}: there is no params.yaml beside a presets folder; "
            "go into your clone or set PROLIFIC_ROOT to it"
        )

    @property
    def state(self) -> Path:
        return self.root / ".state"

    def stage_state(self, id: str, stage: str) -> Path:
        return self.state / id / stage

    def output(self, id: str, stage: str) -> Path:
        return self.root / "runs" / id / stage

    def prompt_folder(self, id: str) -> Path:
        return self.root / "prompts" / id

    def prompt(self, id: str) -> Prompt:
        """The prompt filed under an id; InputError when there is none."""
        prompts.check_id(id)
        shown = f"prompts/{id}/prompt.yaml"
        path = self.prompt_folder(id) / "prompt.yaml"
        if not path.is_file():
            known = ", ".join(self.prompt_ids()[:8]) or "none yet"
            raise InputError(
                f"no prompt '{id}' ({shown} is missing); known: {known}; make one: prolific generate \"TEXT\""
            )
        prompt = prompts.parse(shown, prompts.read_yaml(path, shown))
        if prompt.id != id:
            raise InputError(f"{shown}: id = {prompt.id!r}: it must be the folder's name, '{id}'")
        return prompt

    def prompt_ids(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("prompts/*/prompt.yaml"))

    def presets(self) -> list[str]:
        return sorted(path.stem for path in self.root.glob("presets/*.yaml"))

    def config(self, prompt: Prompt) -> config.Config:
        """params.yaml, then the preset, then the prompt's own sections, checked."""
        preset = f"presets/{prompt.preset}.yaml"
        if prompt.preset not in self.presets():
            raise InputError(f"no preset '{prompt.preset}' ({preset} is missing); known: {', '.join(self.presets())}")
        return config.resolve(
            ("params.yaml", prompts.read_yaml(self.root / "params.yaml", "params.yaml") or {}),
            (preset, prompts.read_yaml(self.root / preset, preset) or {}),
            (f"prompts/{prompt.id}/prompt.yaml", prompt.sections),
        )
