"""Names, tags, parameters, metrics and files of a prompt's MLflow runs."""

from dataclasses import dataclass
from pathlib import Path

from prolific_core.files import read_json
from prolific_core.prompts import Prompt
from tasks.runtime.project import ResolvedPrompt

EXPERIMENT = "prolific"


@dataclass(frozen=True)
class Group:
    """MLflow experiment and dataset of the prompts in one sweep. The dataset has one row per prompt."""

    experiment: str
    prompts: list[dict]


class PromptRuns:
    """Runs of one prompt in MLflow. They belong to the default experiment unless a `group` is given."""

    def __init__(self, resolved: ResolvedPrompt, group: Group | None = None):
        self.prompt, self.config = resolved.prompt, resolved.config
        self.name, self.pipeline = resolved.id, resolved.pipeline
        self.state, self.output = resolved.state, resolved.output
        group = group or Group(EXPERIMENT, [row(self.prompt)])
        self.experiment, self.prompts = group.experiment, group.prompts
        values = self.config.model_dump(mode="json", exclude={"logging"})
        self.identity = [self.name, self.prompt.text, self.prompt.seed, values]

    @property
    def tags(self) -> dict:
        return {
            "prompt": self.prompt.text,
            "prompt_id": self.prompt.id,
            "preset": self.prompt.preset,
            "method": self.config.nerf.guidance.method,
            "prior": self.config.prior.path,
        } | _system(self.prompt)

    @property
    def parameters(self) -> dict:
        return {"seed": self.prompt.seed, **flatten(self.config.model_dump(mode="json"))}

    @property
    def metrics(self) -> dict:
        """Metrics of the finished model, from the stages `evaluate` and `export`."""
        paths = [self.output(stage) / "metrics.json" for stage in ("evaluate", "export")]
        return {name: value for path in paths for name, value in read_json(path).items()}

    @property
    def files(self) -> list[Path]:
        """Paths of the finished model and its turntable."""
        return [self.output("export") / "mesh.glb", self.output("evaluate") / "turntable.mp4"]

    def stage_tags(self, stage: str) -> dict:
        tags = {name: self.tags[name] for name in ("prompt", "prompt_id", "preset")} | _system(self.prompt)
        guidance = getattr(getattr(self.config, stage), "guidance", None)
        return tags | ({"method": guidance.method} if guidance else {})

    def stage_parameters(self, stage: str) -> dict:
        return {"seed": self.prompt.seed, **flatten(getattr(self.config, stage).model_dump(mode="json"))}


def row(prompt: Prompt) -> dict:
    """Return the row that describes a prompt in the dataset of its experiment."""
    return {"id": prompt.id, "text": prompt.text, "seed": prompt.seed, "preset": prompt.preset} | _system(prompt)


def _system(prompt: Prompt) -> dict:
    """Return the tag with the prompt's system, if it has one."""
    return {"system": prompt.system_name} if prompt.system_name else {}


def flatten(values: dict, prefix: str = "") -> dict:
    """Flatten nested parameters, for example `{"guidance": {"scale": 7.5}}` to `{"guidance.scale": 7.5}`."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return result
