"""A command with nothing to do loads neither Prefect nor MLflow nor torch, and starts no server."""

import json
import os

import pytest

from tasks.runtime.project import STAGES
from tests.conftest import Clone

HEAVY = ("prefect", "mlflow", "torch", "diffusers", "transformers")


@pytest.fixture
def poisoned(tmp_path) -> str:
    """PYTHONPATH on which the import of a heavy package fails."""
    for name in HEAVY:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} must not be imported')\n")
    return str(tmp_path)


def generate(clone: Clone, *options: str, **environment: str) -> dict:
    done = clone.prolific("generate", "a red mug", "--json", *options, PROLIFIC_TRACKER="flow", **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_finished_prompt(made: Clone, poisoned):
    first = generate(made)  # MLflow gets the run, which DVC has made
    path = os.pathsep.join([poisoned, str(made.root)])
    again = generate(made, PYTHONPATH=path)
    assert again == first and all(stage["cached"] for stage in again["stages"].values())
    assert made.ran() == list(STAGES) and not (made.root / ".state" / "prefect").exists()

    # DVC stays the judge of what must run.
    made.edit("prompts/a-red-mug/prompt.yaml", "texture: {}", "texture: {steps: 7}")
    changed = generate(made)
    assert [name for name, stage in changed["stages"].items() if not stage["cached"]] == list(STAGES)[3:]
    (made.root / "runs/a-red-mug/export/mesh.glb").write_bytes(b"damaged")
    restored = generate(made)
    assert restored["metrics"] == first["metrics"] and restored["seconds"] == changed["seconds"]
    assert (made.root / "runs/a-red-mug/export/mesh.glb").read_bytes() == b"mesh.glb"
    assert generate(made, PYTHONPATH=path) == restored
