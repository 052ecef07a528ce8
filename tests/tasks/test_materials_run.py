"""The tiny preset runs all stages with physically based materials and starts from an ellipsoid."""

import json
import struct

import pytest
import torch

from prolific_core.scenes import store
from prolific_core.scenes.start_shape import start_surface
from tasks.dvc_pipeline import pipeline
from tasks.runtime import stage
from tasks.runtime.project import STAGES, Project, models_of
from tests.conftest import copy_project
from tests.support import tiny_pipeline

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("pymeshlab")
pytest.importorskip("xatlas")

ID = "a-red-mug"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = copy_project(tmp_path_factory.mktemp("materials") / "clone")
    tiny_pipeline.make(root / "prior")
    path = root / "prompts" / ID / "prompt.yaml"
    values = {
        "prior": "{path: prior}",
        "geometry": "{start: ellipsoid, ellipsoid: [0.4, 0.3, 0.45], steps: 2}",
        "texture": "{material: pbr, steps: 2, fit_steps: 4}",
    }
    text = (
        path.read_text().replace('text: "a red mug"', 'text: "something"').replace('preset: "demo"', 'preset: "tiny"')
    )
    for section, value in values.items():
        text = text.replace(f"{section}: {{}}", f"{section}: {value}")
    path.write_text(text)
    return Project(root)


def test_a_run_ends_with_a_lit_glb_of_base_colour_roughness_and_metalness(project, monkeypatch):
    monkeypatch.chdir(project.root)
    metrics = {name: stage.run(project, name, ID) for name in STAGES}
    assert set(metrics["geometry"]) == {"faces"}
    vertices, _ = store.load_meshes(project.output(ID, "geometry"), "cpu")[0]
    assert torch.allclose(vertices.abs().amax(0), torch.tensor([0.4, 0.3, 0.45]), atol=0.03)
    fields = store.load_fields(project.output(ID, "texture"), device="cpu", backend="auto")
    assert store.load_materials(project.output(ID, "texture"), fields) is not None
    folder = project.output(ID, "export")
    data = (folder / "mesh.glb").read_bytes()
    document = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    assert "extensionsUsed" not in document and len(document["images"]) == 2
    look = document["materials"][0]["pbrMetallicRoughness"]
    assert look["metallicRoughnessTexture"] == {"index": 1} and look["metallicFactor"] == look["roughnessFactor"] == 1
    assert "NORMAL" in document["meshes"][0]["primitives"][0]["attributes"]
    other = trimesh.load(folder / "mesh.glb", force="mesh").visual.material
    red, green, blue = (channel.getextrema() for channel in other.metallicRoughnessTexture.convert("RGB").split())
    assert red == (255, 255)
    assert 100 < green[0] <= green[1] < 230, "the roughness stays near its start after four steps"
    assert blue[1] < 60
    names = {path.name for path in folder.glob("mesh*.png")}
    assert names == {"mesh.png", "mesh_roughness.png", "mesh_metallic.png"}
    assert "map_Pr mesh_roughness.png\nmap_Pm mesh_metallic.png" in (folder / "mesh.mtl").read_text()


def test_a_mesh_file_is_among_the_dependencies_of_geometry_alone(project):
    trimesh.creation.icosphere(2).export(project.root / "start.stl")
    path = project.prompt_folder(ID) / "prompt.yaml"
    path.write_text(path.read_text().replace("start: ellipsoid", "start: start.stl"))
    resolved = project.resolve(ID)
    assert "start.stl" in models_of("geometry", project.root, resolved.config)
    assert "start.stl" not in models_of("texture", project.root, resolved.config)
    assert pipeline.text(project, resolved.prompt).count("- start.stl\n") == 1
    first = stage.Stage(project, "geometry", ID).key
    trimesh.creation.icosphere(3).export(project.root / "start.stl")
    assert stage.Stage(project, "geometry", ID).key != first


def test_a_stage_without_steps_passes_its_surface_on_and_says_so(project, monkeypatch, capsys):
    """It needs no prior, keeps one preview, and has no curve to plot."""
    monkeypatch.chdir(project.root)
    path = project.prompt_folder(ID) / "prompt.yaml"
    path.write_text(
        path.read_text().replace("start: start.stl", "start: ellipsoid").replace("steps: 2}", "steps: 0}", 1)
    )
    monkeypatch.setattr("tasks.guided.load_prior", lambda **_: pytest.fail("the prior is not needed"))
    stage.run(project, "geometry", ID)
    assert "geometry.steps is 0: the result is passed on without guidance" in capsys.readouterr().err
    output = project.output(ID, "geometry")
    assert [file.name for file in (output / "preview").iterdir()] == ["views-000000.png"]
    assert not (output / "curve.json").exists()
    resolved = project.resolve(ID)
    config = resolved.config.geometry
    vertices, faces = start_surface(config).extract()
    made = store.load_meshes(output, "cpu")[0]
    assert torch.equal(made[0], vertices.detach()) and torch.equal(made[1], faces)
    text = pipeline.text(project, resolved.prompt)
    assert "geometry_loss" not in text and "texture_loss" in text
