"""Status of many prompts in one process, compared with what DVC would run."""

import shutil

import pytest

from tasks.dvc_pipeline import cli
from tasks.dvc_pipeline.unchanged import unchanged
from tasks.runtime.project import Project

FIRST, SECOND = "a-red-mug", "another-red-mug"


@pytest.fixture
def two(made, monkeypatch) -> Project:
    """Two finished prompts, of which the second is a copy of the first; a test's changes are undone."""
    root = made.root
    monkeypatch.setenv("PROLIFIC_ROOT", str(root))
    shutil.copytree(root / "runs" / FIRST, root / "runs" / SECOND, dirs_exist_ok=True)
    for folder in (FIRST, SECOND):
        (root / "prompts" / folder).mkdir(exist_ok=True)
    for name in ("prompt.yaml", "dvc.yaml", "dvc.lock"):
        text = (root / "prompts" / FIRST / name).read_text()
        (root / "prompts" / SECOND / name).write_text(text.replace(FIRST, SECOND))
    return Project(root)


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("params.yaml", "resolution: 128", "resolution: 127", set()),
        (f"prompts/{SECOND}/prompt.yaml", "seed: 0", "seed: 1", {FIRST}),
        (f"runs/{SECOND}/export/result.json", "red", "blue", {FIRST}),
        (f"prompts/{SECOND}/dvc.lock", "schema", "- no schema", {FIRST}),
        ("tasks/nerf.py", "import json", "import  json", set()),
    ],
)
def test_only_prompts_without_any_change_are_unchanged(two, path, old, new, expected):
    file = two.root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    try:
        assert unchanged(two, [FIRST, SECOND, "unknown"]) == expected
    finally:
        file.write_text(text)


def test_prompts_that_are_finished_are_unchanged(two):
    assert unchanged(two, [FIRST, SECOND]) == {FIRST, SECOND}
    shutil.rmtree(two.root / "runs" / SECOND / "nerf")
    assert unchanged(two, [FIRST, SECOND]) == {FIRST}


def test_parameters_are_looked_up_as_dvc_does(monkeypatch):
    import dpath
    from dvc.dependency import param

    monkeypatch.setattr(param, "dpath", dpath)  # restored after the test
    cli.look_up_parameters()
    values = {
        "nerf": {"steps": 0, "time": {"final": None}, "schedule": [[0.0, 64], [0.5, 128]], "a*": 1},
        "x": False,
        "lights": {1: {"power": 3.0}, 2024: 5, False: 6},  # YAML has keys of other types
    }
    keys = ["nerf", "nerf.steps", "nerf.time", "nerf.time.final", "nerf.schedule", "nerf.schedule.1", "x", "nerf.a*"]
    keys += ["lights.1.power", "lights.2024", "lights.False", ".nerf.steps"]
    for key in keys:
        assert param.dpath.get(values, key, separator=".") == dpath.get(values, key, separator="."), key
    for key in ("nerf.missing", "y", "nerf.steps.0", "nerf.schedule.7"):
        with pytest.raises(KeyError):
            dpath.get(values, key, separator=".")
        with pytest.raises(KeyError):
            param.dpath.get(values, key, separator=".")
