"""Job that runs one stage of a prompt.

Each stage is a function `run(stage: Stage) -> dict[str, float]` in tasks/<name>.py.
"""

import importlib
import os
import sys
from pathlib import Path

from prolific_core.errors import InputError, ProlificError
from tasks.runtime import machine
from tasks.runtime.console import Console, announce
from tasks.runtime.job import Job
from tasks.runtime.manifest import check_output
from tasks.runtime.project import STAGES, Project, code_of, models_of


class Stage(Job):
    """Job that is passed to the function `run` in the module of a stage."""

    keeps_curve = True

    def __init__(self, project: Project, name: str, id: str):
        if name not in STAGES:
            raise InputError(f"no stage '{name}'; the stages are {', '.join(STAGES)}")
        self.project = project
        self.id = id
        resolved = project.resolve(id)  # Read the files once, so edits during the run have no effect.
        self.prompt, self.config = resolved.prompt, resolved.config
        self.title = f"stage '{name}' of '{id}'"
        self.code, self.inputs = code_of(name, project.root, self.config), STAGES[name].inputs
        self.models = models_of(name, project.root, self.config)
        super().__init__(
            project.root,
            name,
            final=project.output(id, name),
            state=project.stage_state(id, name),
            system=self.config.system,
            logging=self.config.logging,
        )

    @property
    def parameters(self) -> dict:
        """Parameter sections that the result depends on."""
        spec = STAGES[self.name]
        return {section: self.config.model_dump(mode="json")[section] for section in spec.sections(self.name)}

    def read_again(self) -> "Stage":
        """Return the same stage with the parameters and the code that the files have now."""
        return Stage(self.project, self.name, self.id)

    @property
    def lock_file(self) -> Path:
        """DVC's file with the recorded outputs of the prompt."""
        return self.project.prompt_folder(self.id) / "dvc.lock"

    @property
    def subject(self) -> dict:
        prompt = self.prompt
        facts = {"id": self.id, "text": prompt.text, "seed": prompt.seed, "preset": prompt.preset}
        return {"prompt": facts | ({"system_name": prompt.system_name} if prompt.system_name else {})}

    @property
    def identity(self) -> dict:
        return {"prompt": [self.prompt.text, self.prompt.seed]}

    def input(self, name: str) -> Path:
        """Return the output folder of an earlier stage, after checking that it is complete."""
        if name not in self.inputs:
            raise ProlificError(
                f"stage '{self.name}' reads the output of '{name}', which must be among its inputs; "
                "add it to STAGES in tasks/runtime/project.py"
            )
        folder = self.project.output(self.id, name)
        self._inputs[name] = check_output(folder, f"runs/{self.id}/{name}", f"prolific stage {name} {self.id}")
        return folder


def run(project: Project, name: str, id: str) -> dict:
    """Run a stage in this process and return its metrics."""
    stage = Stage(project, name, id)
    stage.key  # noqa: B018 (reports a missing input before torch is loaded)
    if sys.stderr.isatty():
        announce(f"{id} {name}: loading")
    os.chdir(project.root)  # Paths in the parameters are relative to the root.
    machine.threads(stage.config.system.threads)  # This must precede the import of torch in the stage's module.
    body = importlib.import_module(f"tasks.{name}").run
    return stage.run(body, Console(f"{id} {name}"))
