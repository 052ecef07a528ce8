"""Content of priors/<name>/dvc.yaml, made from the table of stages."""

import yaml

from tasks.prior_training.specs import STAGES

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
            # With exec the stage is DVC's own child, and ends when DVC is killed.
            "cmd": f"exec python -m tasks.prior_training {name} {prior}",
            "deps": [*spec.dependencies, *(f"{folder}/{earlier}" for earlier in spec.inputs)],
            "params": [{f"{folder}/params.yaml": spec.sections}],
            "outs": [{f"{folder}/{name}": {"cache": spec.cached}}],
        }
    return _HEAD + yaml.safe_dump({"stages": stages}, sort_keys=False, width=200)
