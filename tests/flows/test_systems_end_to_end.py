"""Every system in systems/ makes a model with six real stages on a tiny random prior, with the preset `tiny`.

The values of the metrics are the subject of other tests.
"""

import json
from pathlib import Path

import pytest
import trimesh
from safetensors.torch import load_file

from flows.benchmarks import scratch_project
from flows.prompt_store import create
from prolific_core.files import read_json
from tasks.runtime import stage as runner
from tasks.runtime.project import STAGES, Project
from tests.conftest import Clone
from tests.support import tiny_pipeline

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # half a minute each


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Clone:
    root = scratch_project.copy(ROOT, tmp_path_factory.mktemp("systems") / "clone", weights=True)
    tiny_pipeline.make(root / "prior")
    clone = Clone(root)
    clone.edit("params.yaml", "path: toybox", "path: prior")
    return clone


@pytest.mark.parametrize("system", Project(ROOT).systems())
def test_a_system_makes_a_model(scratch, system, capsys):
    project = Project(scratch.root)
    prompt = create.file_prompt(project, "something", preset="tiny", system=system)
    assert prompt.id == f"something-tiny-{system}"
    for name in STAGES:
        runner.run(project, name, prompt.id)
    assert len(trimesh.load(project.output(prompt.id, "export") / "mesh.glb", force="mesh").faces) > 200
    said, config = capsys.readouterr().err, project.config(prompt)
    for name in ("nerf", "geometry", "texture"):
        steps = getattr(config, name).steps
        assert (f"{name}.steps is 0: the result is passed on without guidance" in said) == (steps == 0), said
        previews = project.output(prompt.id, name) / "preview"
        assert max(previews.glob("*.png")).stem == f"views-{steps:06d}"
        manifest = read_json(project.output(prompt.id, name) / "manifest.json")
        assert manifest["prompt"]["system_name"] == system
        assert manifest["parameters"][name]["guidance"]["method"] == getattr(config, name).guidance.method
    tables = [
        load_file(project.output(prompt.id, name) / "particle_0.safetensors")["encoding.table"]
        if (project.output(prompt.id, name) / "particle_0.safetensors").is_file()
        else None
        for name in ("nerf", "geometry", "texture")
    ]
    before, joint, after = tables
    assert before is not None and after is not None and not after.equal(before)
    assert (joint is not None) == config.geometry.colours
    if joint is not None:
        assert not joint.equal(before) and after.equal(joint) == (config.texture.steps == 0)


def test_a_comparison_of_systems_reuses_their_models(scratch, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red mug\n")
    arguments = ["--systems", "dreamfusion", "--preset", "tiny", "--seeds", "1", "--workers", "1"]
    arguments += ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "page")]
    done = scratch.prolific("compare", *arguments)
    assert done.returncode == 0, done.stderr
    model = scratch.root / "runs" / "a-red-mug-tiny-dreamfusion" / "export" / "mesh.glb"
    made = model.stat().st_mtime_ns
    values = read_json(tmp_path / "page" / "compare.json")["systems"]
    assert values["scales"] == {"dreamfusion": 100.0}
    (run,) = values["runs"]
    # Two texts in each of 20 steps; geometry and texture pass on what they have.
    assert run["metrics"]["evaluations"] == 40 and run["metrics"]["seconds"] > 0 and "excess" in run["metrics"]
    assert "steps and the sizes are those of the preset" in (tmp_path / "page" / "compare.md").read_text()
    assert scratch.prolific("compare", *arguments).returncode == 0 and model.stat().st_mtime_ns == made
    again = read_json(tmp_path / "page" / "compare.json")["systems"]
    assert json.dumps(again["runs"]) == json.dumps(values["runs"])
