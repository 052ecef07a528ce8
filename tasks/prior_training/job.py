"""Job that runs one stage of a prior's training."""

import shutil
from pathlib import Path
from typing import Any

from prolific_core.config import LoggingConfig
from prolific_core.errors import InputError, ProlificError
from tasks.prior_training.runs import PriorRuns
from tasks.prior_training.specs import STAGES
from tasks.runtime.job import Job
from tasks.runtime.manifest import check_output
from tasks.runtime.project import Project


class PriorStage(Job):
    """Job that is passed to a function in `tasks/prior_training/stages.py`.

    Checkpoints depend on parameters, inputs and data but not on code, because training takes up to a day and must be
    able to resume after files were edited or moved. If a code change invalidates the steps already done, delete
    .state/priors/<name>/<stage>/checkpoints.
    """

    section: Any  # The stage's section of the parameters, or None if the stage has no section.

    def __init__(self, project: Project, name: str, prior: str):
        if name not in STAGES:
            raise InputError(f"no stage '{name}'; the stages of a prior are {', '.join(STAGES)}")
        spec = STAGES[name]
        self.runs = PriorRuns(project, prior)
        self.config = self.runs.config
        self.title = f"stage '{name}' of the prior '{prior}'"
        self.subject = {"prior": prior}
        self.inputs, self.section = spec.inputs, getattr(self.config, spec.section) if spec.section else None
        initial = getattr(self.section, "initial", None)
        # The job's key depends on these files. The class docstring explains why they exclude code.
        self.code = (*spec.data, *([initial] if initial else []))
        super().__init__(
            project.root,
            name,
            final=self.runs.output(name),
            state=self.runs.state(name),
            system=self.config.system,
            logging=LoggingConfig(metrics_every=1),
        )

    @property
    def parameters(self) -> dict:
        """Parameter sections that the result depends on."""
        values = self.config.model_dump(mode="json")
        return {section: values[section] for section in STAGES[self.name].sections}

    def read_again(self) -> "PriorStage":
        """Return the same stage with the parameters and the data that the files have now."""
        return PriorStage(self.runs.project, self.name, self.runs.name)

    @property
    def lock_file(self) -> Path:
        """DVC's file with the recorded outputs of the prior."""
        return self.root / "priors" / self.runs.name / "dvc.lock"

    @property
    def resumable(self) -> dict:
        """Parameters that a checkpoint depends on: all but those that only say when the training ends."""
        sections = self.parameters
        if self.name == "diffusion":
            sections["diffusion"] = {k: v for k, v in sections["diffusion"].items() if k not in ("steps", "decay")}
        return sections

    def discard_checkpoint(self) -> None:
        """Delete the checkpoint except for the one from which a training with more steps continues."""
        for path in self.checkpoint.iterdir():
            if not path.name.startswith("stable-"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def input(self, name: str) -> Path:
        """Return the output folder of an earlier stage, after checking that it is complete."""
        if name not in self.inputs:
            raise ProlificError(
                f"stage '{self.name}' reads the output of '{name}', which must be among its inputs; "
                "add it to STAGES in tasks/prior_training/specs.py"
            )
        folder, prior = self.runs.output(name), self.runs.name
        self._inputs[name] = check_output(folder, f"priors/{prior}/{name}", f"dvc repro priors/{prior}/dvc.yaml:{name}")
        return folder

    def show_samples(self, images, step: int) -> None:
        """Save images (N, 3, S, S) in [0, 1] as one preview with eight images per row."""
        from prolific_core.visualisation import contact_sheet

        self.image("samples", contact_sheet(images, columns=8), step)

    def observe(self, step: int, values: dict) -> None:
        """Record the metrics of a training step."""
        self.progress(step, self.section.steps, **values)
