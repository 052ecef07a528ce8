"""Folders and parameters of a prior, and the tags and parameters of its training in MLflow."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from prolific_core import config_layers, prompts
from prolific_core.errors import InputError
from prolific_core.yaml_reader import read_yaml
from tasks.prior_training.specs import STAGES
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import flatten

if TYPE_CHECKING:
    from prolific_core.toybox.params import TrainingConfig


class PriorRuns:
    """Training of one prior, with the same interface as `tasks.tracking.prompt_runs.PromptRuns`."""

    experiment = "priors"

    def __init__(self, project: Project, name: str):
        prompts.check_id(name)
        self.project, self.name = project, name
        self.folder = project.root / "priors" / name
        self.tags = {"prior": name}
        self.pipeline = f"priors/{name}/dvc.yaml"

    @property
    def identity(self) -> list:
        """Values that identify this training among MLflow's runs."""
        return ["prior", self.name, self.config.model_dump(mode="json")]

    @property
    def parameters(self) -> dict:
        """All parameters, keyed by dotted names."""
        return flatten(self.config.model_dump(mode="json"))

    @cached_property
    def config(self) -> "TrainingConfig":
        """Validated parameters of priors/<name>/params.yaml."""
        from prolific_core.toybox.params import TrainingConfig

        shown = f"priors/{self.name}/params.yaml"
        if not (self.folder / "params.yaml").is_file():
            known = ", ".join(sorted(path.parent.name for path in self.project.root.glob("priors/*/params.yaml")))
            raise InputError(f"no prior '{self.name}' ({shown} does not exist); the priors are: {known or 'none'}")
        checked = config_layers.check(shown, self._read(), TrainingConfig)
        for section in ("autoencoder", "text", "diffusion", "scorer"):  # Fail now rather than after hours of training.
            initial = getattr(checked, section).initial
            if initial and not (self.project.root / initial / "model_index.json").is_file():
                raise InputError(
                    f"{shown}: {section}.initial must be the folder of a published model, which contains "
                    f"model_index.json, got '{initial}'"
                )
        return checked

    def missing_sections(self) -> list[str]:
        """Return the sections that are missing from params.yaml. Their default values are used."""
        sections, given = type(self.config).model_fields, self._read()
        return [section for section in sections if section not in given]

    def stage_tags(self, stage: str) -> dict:
        """Return the MLflow tags of one stage's run."""
        return {"prior": self.name}

    def stage_parameters(self, stage: str) -> dict:
        """Return the parameters of one stage, keyed by dotted names."""
        section = STAGES[stage].section
        return flatten(getattr(self.config, section).model_dump(mode="json")) if section else {}

    def state(self, stage: str) -> Path:
        """Return the folder of a stage's records, previews and checkpoints."""
        return self.project.state / "priors" / self.name / stage

    def output(self, stage: str) -> Path:
        """Return the folder of a stage's output."""
        return self.folder / stage

    def _read(self) -> dict:
        shown = f"priors/{self.name}/params.yaml"
        return read_yaml(self.folder / "params.yaml", shown) or {}
