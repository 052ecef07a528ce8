"""The stages geometry, texture and export without guidance: files of every particle, and the fitted colours."""

from types import SimpleNamespace

import pytest
import torch

from prolific_core.config import Config, ExportConfig, FieldConfig, GeometryConfig, InitialiseConfig, TextureConfig
from prolific_core.mesh.export import load_glb
from prolific_core.scenes import colour_fit, store
from prolific_core.scenes.coloured_surface import ColouredSurface
from prolific_core.scenes.radiance_field import RadianceField
from tasks import export, geometry, texture

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("pymeshlab")
pytest.importorskip("xatlas")

FIELD = FieldConfig(levels=1, log2_entries=12, max_resolution=16, hidden_width=8, samples_per_ray=48)
CONFIG = Config(
    initialise=InitialiseConfig(field=FIELD),
    geometry=GeometryConfig(grid_resolution=16, extent=None, density_threshold=None),
    texture=TextureConfig(fit_steps=2, resolution=[(0.0, 16)]),
    export=ExportConfig(faces=300, texture_size=64),
)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Return a function that makes a stand-in for a stage whose outputs are folders of `tmp_path`."""
    monkeypatch.setattr(colour_fit, "VIEWS", 2)
    for module in (geometry, texture):
        monkeypatch.setattr(module, "distil_stage", lambda *arguments, **options: None)

    def make(name):
        (tmp_path / name).mkdir()
        return SimpleNamespace(
            config=CONFIG,
            device=torch.device("cpu"),
            prompt=SimpleNamespace(seed=0),
            input=lambda other: tmp_path / other,
            output=tmp_path / name,
            note=lambda text: None,
            status=lambda text: None,
            progress=lambda *values: None,
        )

    return make


def test_two_particles_become_watertight_files(stage):
    fields = [RadianceField(FIELD, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    for field in fields:
        field.update_occupancy(0)
    store.save_fields(stage("nerf").output, FIELD, fields)
    found = geometry.run(stage("geometry"))
    assert found["faces"] > 100 and 0.05 <= found["optical_depth"] < 1.1
    texture.run(made := stage("texture"))
    before, after = (
        store.load_fields(folder, device="cpu", backend="auto") for folder in (made.input("nerf"), made.output)
    )
    assert not torch.equal(before[1].encoding.table, after[1].encoding.table), "the colours were not fitted"
    done = stage("export")
    assert export.run(done)["faces"] <= 300
    for name in ("mesh", "mesh_1"):
        files = {path.suffix for path in done.output.glob(f"{name}.*")}
        assert files == {".glb", ".obj", ".mtl", ".png", ".ply"}
        solid = trimesh.load(done.output / f"{name}.ply")
        assert solid.is_watertight and solid.volume > 0
        assert len(load_glb(done.output / f"{name}.glb").faces) == len(solid.faces)


def test_colours_that_were_optimised_with_the_shape_are_passed_on(stage, monkeypatch):
    """Magic3D: the texture stage starts from the colours of the geometry stage, which are not fitted again."""
    fields = [RadianceField(FIELD, torch.Generator().manual_seed(0))]
    fields[0].update_occupancy(0)
    store.save_fields(stage("nerf").output, FIELD, fields)

    def distil(stage, config, scenes, **options):
        (scene,) = scenes
        assert isinstance(scene, ColouredSurface) and options["pixel_bytes"] > 0
        with torch.no_grad():
            scene.colour.field.encoding.table.add_(1.0)
            scene.surface.sdf.sub_(0.01)

    monkeypatch.setattr(geometry, "distil_stage", distil)
    made = stage("geometry")
    with_colours = CONFIG.geometry.model_copy(update={"colours": True})
    made.config = CONFIG.model_copy(update={"geometry": with_colours})
    geometry.run(made)
    texture.run(done := stage("texture"))
    before, joint, after = (
        store.load_fields(folder, device="cpu", backend="auto")[0].encoding.table
        for folder in (made.input("nerf"), made.output, done.output)
    )
    assert torch.equal(joint, before + 1) and torch.equal(after, joint)
    # A stage with 0 steps optimises nothing, so the colours are fitted to the field, as without `colours`.
    again = stage("again")
    again.config = CONFIG.model_copy(update={"geometry": with_colours.model_copy(update={"steps": 0})})
    monkeypatch.setattr(geometry, "distil_stage", lambda *arguments, **options: None)
    geometry.run(again)
    assert not store.has_fields(again.output)
