"""Generator of a prior's DVC pipeline, priors/<name>/dvc.yaml."""

import yaml

from prolific_core.files import write_atomically
from tasks.prior_training.runs import PriorRuns
from tasks.prior_training.specs import STAGES
from tasks.runtime.project import Project

_HEAD = (
    "# Made from STAGES in tasks/prior_training/specs.py, the same for every prior except for its name. "
    "Do not edit: `prolific prior train` writes it again.\n"
)


def pipeline(prior: str) -> str:
    """Return the text of priors/<prior>/dvc.yaml."""
    stages, folder = {}, f"priors/{prior}"
    for name, spec in STAGES.items():
        stages[name] = {
            "wdir": "../..",
            # With exec, the stage is a direct child of DVC and ends when DVC is killed.
            "cmd": f"exec python -m tasks.prior_training {name} {prior}",
            "deps": [*spec.dependencies, *(f"{folder}/{earlier}" for earlier in spec.inputs)],
            "params": [{f"{folder}/params.yaml": spec.sections}],
            "outs": [{f"{folder}/{name}": {"cache": spec.cached}}],
        }
    return _HEAD + yaml.safe_dump({"stages": stages}, sort_keys=False, width=200)


def refresh(project: Project, name: str) -> None:
    """Write priors/<name>/dvc.yaml, and add missing sections to params.yaml.

    DVC fails if a section that it tracks is missing.

    Raises:
        InputError: If params.yaml is missing or invalid.
    """
    runs = PriorRuns(project, name)
    missing = runs.missing_sections()
    path, text = runs.folder / "dvc.yaml", pipeline(name).encode()
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text)
    if missing:  # The sections are appended, so the user's comments are kept.
        params = runs.folder / "params.yaml"
        added = "".join(f"\n{section}: {{}}\n" for section in missing)
        write_atomically(params, params.read_bytes() + added.encode())
