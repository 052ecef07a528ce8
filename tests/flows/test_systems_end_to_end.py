"""Every system in systems/ makes a model with six real stages on a tiny random prior.

The values of the metrics are the subject of other tests.
"""

import json
from pathlib import Path

import pytest

from flows.benchmarks import scratch_project
from prolific_core.files import read_json
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
def test_a_system_makes_a_model(scratch, system):
    done = scratch.prolific("generate", "a red mug", "--preset", "tiny", "--system", system, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["id"] == f"a-red-mug-tiny-{system}" and list(result["stages"]) == list(STAGES)
    project = Project(scratch.root)
    config = project.config(project.prompt(result["id"]))
    import trimesh

    assert len(trimesh.load(result["glb"], force="mesh").faces) > 200
    for stage in ("nerf", "geometry", "texture"):
        steps = getattr(config, stage).steps
        said = f"{stage}.steps is 0: the result is passed on without guidance"
        assert (said in done.stderr) == (steps == 0), done.stderr
        folder = project.output(result["id"], stage)
        last = max((folder / "preview").glob("*.png"))
        assert last.stem == f"views-{steps:06d}"
    manifest = read_json(project.output(result["id"], "nerf") / "manifest.json")
    assert manifest["prompt"]["system_name"] == system
    assert f"system {system}" in Path(result["report"]).read_text()


def test_dreamfusion_shades_and_magic3d_refines_the_colours_with_the_shape(scratch):
    from safetensors.torch import load_file

    project = Project(scratch.root)
    ids = {system: f"a-red-mug-tiny-{system}" for system in ("prolificdreamer", "dreamfusion", "magic3d")}
    if not all((project.output(id, "export") / "mesh.glb").is_file() for id in ids.values()):
        pytest.skip("the models of the test above are needed")
    curve = read_json(project.output(ids["dreamfusion"], "nerf") / "curve.json")
    assert curve and "loss_orientation" in json.dumps(curve)
    fields = {id: project.output(id, "geometry") / "particle_0.safetensors" for id in ids.values()}
    assert [path.is_file() for path in fields.values()] == [False, False, True]
    joint, after = (
        load_file(project.output(ids["magic3d"], stage) / "particle_0.safetensors")["encoding.table"]
        for stage in ("geometry", "texture")
    )
    before = load_file(project.output(ids["magic3d"], "nerf") / "particle_0.safetensors")["encoding.table"]
    assert not joint.equal(before) and after.equal(joint)


def test_a_comparison_of_systems_uses_the_models_that_there_are(scratch, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red mug\n")
    arguments = ["--systems", "prolificdreamer,dreamfusion", "--preset", "tiny", "--seeds", "1", "--workers", "1"]
    arguments += ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "page")]
    before = {path: path.stat().st_mtime_ns for path in scratch.root.glob("runs/*/export/mesh.glb")}
    done = scratch.prolific("compare", *arguments)
    assert done.returncode == 0, done.stderr
    made = {path: path.stat().st_mtime_ns for path in scratch.root.glob("runs/*/export/mesh.glb")}
    assert {path: made[path] for path in before} == before and len(made) >= 2
    values = read_json(tmp_path / "page" / "compare.json")["systems"]
    assert set(values["means"]) == {"prolificdreamer", "dreamfusion"}
    assert values["scales"] == {"prolificdreamer": 7.5, "dreamfusion": 100.0}
    costs = {run["method"]: run["metrics"]["evaluations"] for run in values["runs"]}
    # SDS evaluates the prior for two texts. VSD also evaluates q once, and trains it with a pass that counts as three.
    assert costs == {"prolificdreamer": 20 * 6 + 8 * 2 + 8 * 6, "dreamfusion": 20 * 2}
    assert "steps and the sizes are those of the preset" in (tmp_path / "page" / "compare.md").read_text()
