"""What MLflow is told of a prompt: the names, tags, parameters and metrics of its runs, and where its stages lie."""

import json
from dataclasses import dataclass
from pathlib import Path

from prolific_core.config import Config
from prolific_core.prompts import Prompt
from tasks.runtime.project import Project

EXPERIMENT = "prolific"


@dataclass(frozen=True)
class Group:
    """Prompts that were asked for together: an experiment of MLflow, and its dataset (`row` of each)."""

    experiment: str
    prompts: list[dict]


class PromptRuns:
    """One prompt; on its own (`group` None) its runs are in the project's experiment."""

    def __init__(self, project: Project, id: str, group: Group | None = None):
        self.project, self.name = project, id
        self.prompt: Prompt = project.prompt(id)
        group = group or Group(EXPERIMENT, [row(self.prompt)])
        self.experiment, self.prompts = group.experiment, group.prompts
        self.config: Config = project.config(self.prompt)
        values = self.config.model_dump(mode="json", exclude={"logging"})
        self.identity = [id, self.prompt.text, self.prompt.seed, values]

    @property
    def tags(self) -> dict:
        return {
            "prompt": self.prompt.text,
            "prompt_id": self.prompt.id,
            "preset": self.prompt.preset,
            "method": self.config.nerf.guidance.method,
            "prior": self.config.prior.path,
        }

    @property
    def parameters(self) -> dict:
        return {"seed": self.prompt.seed, **flatten(self.config.model_dump(mode="json"))}

    @property
    def metrics(self) -> dict:
        """Of the finished model: what `evaluate` and `export` measured. (The first one is what MLflow plots first.)"""
        found = [self.output(stage) / "metrics.json" for stage in ("evaluate", "export")]
        return {name: value for path in found if path.is_file() for name, value in json.loads(path.read_text()).items()}

    @property
    def files(self) -> list[Path]:
        """The finished model, its turntable and its page."""
        turntable = self.output("evaluate") / "turntable.mp4"
        return [self.output("export") / "mesh.glb", turntable, self.project.root / "reports" / f"{self.name}.html"]

    def stage_tags(self, stage: str) -> dict:
        tags = {name: self.tags[name] for name in ("prompt", "prompt_id", "preset")}
        guidance = getattr(getattr(self.config, stage), "guidance", None)
        return tags | ({"method": guidance.method} if guidance else {})

    def stage_parameters(self, stage: str) -> dict:
        return {"seed": self.prompt.seed, **flatten(getattr(self.config, stage).model_dump(mode="json"))}

    @property
    def pipeline(self) -> str:
        return f"prompts/{self.name}/dvc.yaml"

    def state(self, stage: str) -> Path:
        return self.project.stage_state(self.name, stage)

    def output(self, stage: str) -> Path:
        return self.project.output(self.name, stage)


def row(prompt: Prompt) -> dict:
    """A prompt as a dataset has it."""
    return {"id": prompt.id, "text": prompt.text, "seed": prompt.seed, "preset": prompt.preset}


def flatten(values: dict, prefix: str = "") -> dict:
    """`{"guidance": {"scale": 7.5}}` as `{"guidance.scale": 7.5}`: parameters one can search for."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return result
