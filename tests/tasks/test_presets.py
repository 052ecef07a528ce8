"""params.yaml states every parameter, and the presets resolve to the values recorded in resolved_presets.yaml."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prolific_core.config import Config
from prolific_core.yaml_reader import read_yaml
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import flatten

PROJECT = Project(Path(__file__).parents[2])
PRESETS = ("demo", "paper", "room", "tiny")


def resolved(preset: str) -> dict:
    prompt = replace(PROJECT.prompt("a-red-mug"), preset=preset, sections={})
    return flatten(PROJECT.config(prompt).model_dump(mode="json"))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_resolves_to_the_recorded_values(preset):
    """A preset that inherits a value from params.yaml must state it before the value there is changed."""
    recorded = read_yaml(Path(__file__).with_name("resolved_presets.yaml"), "resolved_presets.yaml")
    expected = {key: value[preset] if isinstance(value, dict) else value for key, value in recorded.items()}
    # As JSON, 1 and 1.0 and true differ.
    made, expected = ({key: json.dumps(value) for key, value in v.items()} for v in (resolved(preset), expected))
    assert made == expected


def test_params_yaml_states_every_parameter():
    """`dvc exp run -S` can only change a parameter that is in the file."""
    assert set(flatten(read_yaml(PROJECT.root / "params.yaml", "params.yaml"))) == set(
        flatten(Config().model_dump(mode="json"))
    )


def test_params_yaml_has_no_aliases():
    """`dvc exp run -S nerf.cameras.fov=...` would change the cameras of all stages that share a mapping."""
    lines = (PROJECT.root / "params.yaml").read_text().splitlines()
    assert not [line for line in lines if "&" in line.partition("#")[0] or "*" in line.partition("#")[0]]


def test_the_paper_preset_has_the_librarys_defaults_except_for_models_and_memory():
    made, library = resolved("paper"), flatten(Config().model_dump(mode="json"))
    assert {key for key in library if made[key] != library[key]} == {
        "system.device",
        "prior.path",
        "prior.dtype",
        "nerf.patch",
        "nerf.guidance.score.base",
        "texture.guidance.score.base",
        "evaluate.scorer",
        "evaluate.resolution",
    }
