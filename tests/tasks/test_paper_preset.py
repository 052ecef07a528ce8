"""The paper's preset, built whole and stepped once in every stage, with a tiny random prior in
Stable Diffusion's place (eps-prediction, and a v-prediction base for the score model, as in the paper).

Only what a CPU could not pay is smaller: the render's side, the fit of the colours, and the sizes of what is exported.
"""

import json

import pytest
import yaml

from tasks.runtime import stage
from tasks.runtime.project import STAGES, Project
from tests.support import tiny_pipeline

SMALLER = {
    "nerf": {"steps": 1, "resolution": [[0.0, 32]]},
    "geometry": {"steps": 1, "resolution": [[0.0, 64]]},
    "texture": {"steps": 1, "resolution": [[0.0, 64]], "fit_steps": 2},
    "export": {"faces": 4000, "texture_size": 128},
    "evaluate": {"views": 2, "turntable_frames": 2, "resolution": 64},
    "initialise": {"preview_resolution": 16},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    (root / "presets").mkdir()
    (root / "prompts" / "a-red-mug").mkdir(parents=True)
    source = Project.find().root
    (root / "params.yaml").write_text((source / "params.yaml").read_text())
    preset = yaml.safe_load((source / "presets" / "paper.yaml").read_text())
    prior = tiny_pipeline.make(root / "sd-base")
    v_prior = tiny_pipeline.make(root / "sd-v", prediction="v_prediction", seed=1)
    preset["prior"]["path"] = str(prior)  # in float16, as the preset has it
    preset["system"] = {"device": "cpu"}
    scores = [preset[name]["guidance"]["score"] for name in ("nerf", "texture")]
    assert [score["base"] for score in scores] == ["stabilityai/stable-diffusion-2-1"] * 2
    for score in scores:
        score["base"] = str(v_prior)
    preset["evaluate"]["scorer"] = str(prior / "scorer")
    for name, values in SMALLER.items():
        preset[name] = {**(preset[name] or {}), **values}
    (root / "presets" / "paper.yaml").write_text(yaml.safe_dump(preset))
    prompt = {"id": "a-red-mug", "text": "a red mug", "seed": 0, "preset": "paper"}
    (root / "prompts" / "a-red-mug" / "prompt.yaml").write_text(yaml.safe_dump(prompt))
    return Project(root)


@pytest.mark.slow
def test_every_stage_takes_a_step_with_the_papers_values(project):
    config = project.config(project.prompt("a-red-mug"))
    field = config.initialise.field
    assert (field.levels, field.features, field.log2_entries, field.base_resolution, field.max_resolution) == (
        16,
        2,
        19,
        16,
        2048,
    )
    assert config.nerf.guidance.scale == config.texture.guidance.scale == 7.5
    assert config.geometry.guidance.method == "sds" and config.geometry.guidance.scale == 100
    assert config.geometry.grid_resolution == 128
    assert (config.nerf.guidance.score.rank, config.nerf.guidance.score.learning_rate) == (4, 1e-4)
    assert config.texture.guidance.score == config.nerf.guidance.score
    for name in STAGES:
        stage.run(project, name, "a-red-mug")
        folder = project.output("a-red-mug", name)
        assert json.loads((folder / "manifest.json").read_text())["stage"] == name
    assert (project.output("a-red-mug", "export") / "mesh.glb").stat().st_size > 10_000
    assert -1 <= json.loads((folder / "metrics.json").read_text())["alignment"] <= 1
