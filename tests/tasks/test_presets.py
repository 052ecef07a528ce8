"""params.yaml states every parameter, and the presets resolve to the values recorded in resolved_presets.yaml."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from prolific_core.config import Config
from prolific_core.errors import InputError
from prolific_core.yaml_reader import read_yaml
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import flatten

PROJECT = Project(Path(__file__).parents[2])
PRESETS = ("demo", "paper", "paper-fast", "room", "tiny")


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


def test_the_paper_preset_has_the_librarys_defaults_except_for_models_memory_and_long_runs():
    """A run of some hundreds of steps, as the library's users make, would end before the release's warm-up does."""
    score = [f"{stage}.guidance.score" for stage in ("nerf", "texture")]
    made, library = resolved("paper"), flatten(Config().model_dump(mode="json"))
    assert {key for key in library if made[key] != library[key]} == {
        "system.device",
        "prior.path",
        "prior.dtype",
        "nerf.patch",
        "nerf.random_background_after",
        *(f"{name}.{key}" for name in score for key in ("base", "initialisation", "warmup", "weight_decay")),
        "evaluate.scorer",
        "evaluate.resolution",
    }


def test_the_paper_preset_has_the_numbers_of_the_official_release():
    """thu-ml/prolificdreamer: run.sh, main.py, nerf/utils.py and nerf/renderer.py."""
    config = PROJECT.config(replace(PROJECT.prompt("a-red-mug"), preset="paper", sections={}))
    nerf, geometry, texture = config.nerf, config.geometry, config.texture
    assert (nerf.steps, geometry.steps, texture.steps) == (25_000, 15_000, 30_000)
    assert all(stage.resolution == [(0.0, 512)] for stage in (nerf, geometry, texture))
    times = [(s.guidance.time.minimum, s.guidance.time.maximum) for s in (nerf, geometry, texture)]
    assert times == [(0.02, 0.98), (0.02, 0.5), (0.02, 0.5)]
    assert nerf.guidance.time.final == 0.5 and nerf.guidance.time.switch_at * nerf.steps == 5000  # --t5_iters
    assert [s.cameras.fov for s in (nerf, geometry, texture)] == [(40, 70), (30, 60), (30, 60)]
    assert (nerf.losses.entropy, nerf.random_background, nerf.random_background_after) == (10, 0.5, 2000)
    assert (geometry.learning_rate, geometry.normal_consistency) == (5e-3, 5000)
    assert (geometry.density_threshold, geometry.extent) == (2.5, None)  # 25 times --density_thresh
    for score in (nerf.guidance.score, texture.guidance.score):
        assert (score.rank, score.learning_rate, score.weight_decay, score.warmup) == (4, 1e-4, 1e-2, 500)
        assert score.initialisation == "gaussian"


def test_paper_fast_differs_from_paper_in_the_resolution_only():
    paper, fast = resolved("paper"), resolved("paper-fast")
    assert {key for key in paper if paper[key] != fast[key]} == {"nerf.resolution"}
    assert fast["nerf.resolution"] == [[0.0, 64], [0.2, 512]]


def write_presets(project, **texts):
    for name, text in texts.items():
        (project.root / "presets" / f"{name}.yaml").write_text(text)


def test_a_preset_extends_another_and_overrides_it(project):
    write_presets(
        project,
        one="nerf: {steps: 11, views: 3}\ngeometry: {steps: 12}\n",
        two="extends: one\nnerf: {steps: 21}\n",
        three="extends: two\ntexture: {steps: 33}\n",
    )
    prompt = replace(project.prompt("a-red-mug"), preset="three", sections={"texture": {"views": 5}})
    made = project.config(prompt)
    assert (made.nerf.steps, made.nerf.views, made.geometry.steps) == (21, 3, 12)
    assert (made.texture.steps, made.texture.views) == (33, 5)
    assert [file for file, _ in project.layers(prompt)] == [
        "params.yaml",
        *(f"presets/{name}.yaml" for name in ("one", "two", "three")),
        "prompts/a-red-mug/prompt.yaml",
    ]
    # DVC runs a stage again if a value of any of these files changes.
    stages = yaml.safe_load(pipeline.text(project, prompt))["stages"]
    files = [next(iter(entry)) for entry in stages["nerf"]["params"]]
    assert files[-4:-2] == ["presets/one.yaml", "presets/two.yaml"]
    assert stages["nerf"]["params"][-2]["presets/${preset}.yaml"][0] == "extends"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: none-such\n", "presets/mine.yaml: no preset 'none-such'"),
        ("extends: [1]\n", "presets/mine.yaml: no preset [1]"),
        ("extends: other\n", "presets/other.yaml: the presets extend each other in a circle"),
    ],
)
def test_a_wrong_extension_is_one_line(project, text, message):
    write_presets(project, mine=text, other="extends: mine\n")
    with pytest.raises(InputError) as caught:
        project.config(replace(project.prompt("a-red-mug"), preset="mine", sections={}))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
