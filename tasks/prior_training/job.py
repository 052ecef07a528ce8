"""The job of one training stage of one prior."""

from pathlib import Path
from typing import Any

from prolific_core.config import LoggingConfig
from prolific_core.errors import InputError, ProlificError
from tasks.prior_training.runs import PriorRuns
from tasks.prior_training.specs import STAGES
from tasks.runtime.job import Job, check_output
from tasks.runtime.project import Project


class PriorStage(Job):
    """A job of one prior, which the bodies in `tasks/prior_training/stages.py` receive.

    Its checkpoint depends on parameters, inputs and data, but not on code: a training takes up to a day, and is
    continued after its files were edited or moved. After a change that makes the steps before it worthless, delete
    .state/priors/<name>/<stage>/checkpoints.
    """

    section: Any  # The stage's own section of the parameters, or None.

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
        # The job's key holds the contents of these files: of data only, see the class.
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
        """Sections of the parameters that the result depends on."""
        values = self.config.model_dump(mode="json")
        return {section: values[section] for section in STAGES[self.name].sections}

    def input(self, name: str) -> Path:
        """Return the finished folder of an earlier stage."""
        if name not in self.inputs:
            raise ProlificError(
                f"stage '{self.name}' reads '{name}' but does not list it: "
                "add it to STAGES in tasks/prior_training/specs.py"
            )
        folder, prior = self.runs.output(name), self.runs.name
        self._inputs[name] = check_output(folder, f"priors/{prior}/{name}", f"dvc repro priors/{prior}/dvc.yaml:{name}")
        return folder

    def show_samples(self, images, step: int) -> None:
        """Save a preview of images (N, 3, S, S) in [0, 1], eight in a row."""
        from prolific_core.visualisation import contact_sheet

        self.image("samples", contact_sheet(images, columns=8), step)

    def observe(self, step: int, values: dict) -> None:
        """Record the metrics of a training step."""
        self.progress(step, self.section.steps, **values)
