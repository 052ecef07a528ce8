"""Materials of a mesh: their start, their fit to a field under light, and their way through a GLB file."""

import numpy as np
import pytest
import torch

from prolific_core.cameras import orbit
from prolific_core.config import CameraConfig, ExportConfig, FieldConfig, TextureConfig
from prolific_core.mesh.asset import finish
from prolific_core.mesh.export import load_glb, write_glb
from prolific_core.mesh.extract import marching_tetrahedra
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.render.mesh.lights import Lighting, studio
from prolific_core.render.mesh.lit import to_linear
from prolific_core.scenes import colour_fit, store
from prolific_core.scenes.colour_fit import fit_colours
from prolific_core.scenes.material_field import MaterialField
from prolific_core.scenes.material_mesh import MaterialMesh
from prolific_core.scenes.radiance_field import RadianceField

pytest.importorskip("pymeshlab")
pytest.importorskip("xatlas")

SHAPE = FieldConfig(levels=2, log2_entries=12, max_resolution=24, hidden_width=16, samples_per_ray=128)
CONFIG = TextureConfig(
    material="pbr",
    network_learning_rate=0.005,
    fit_steps=120,
    resolution=[(0.0, 32)],
    cameras=CameraConfig(distance=(1.3, 1.5), fov=(43.0, 48.0), elevation=(-10, 60)),
)
VIEWS = orbit(3, elevation=20, distance=1.4, fov=45)


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def ball(material, lighting=None) -> MaterialMesh:
    points = grid_points(24, 0.5)
    mesh = marching_tetrahedra(points, 0.3 - points.norm(dim=-1), 24)
    return MaterialMesh(*mesh, material, lighting or studio(), train_config=CONFIG)


def materials() -> MaterialField:
    return MaterialField(RadianceField(SHAPE, draw()), draw())


class Lit(RadianceField):
    """Ball of radius .3 whose colour is grey .5 in white light from +x alone: bright on that side, black behind."""

    def forward(self, x, noise=None):
        facing = torch.nn.functional.normalize(x, dim=-1)[:, :1].clamp(min=0)
        shown = (0.5 * facing).clamp(min=1e-4) ** (1 / 2.2)
        return 80 * torch.sigmoid((0.3 - x.norm(dim=-1)) * 200), shown.expand(-1, 3)


def test_the_start_is_a_rough_dielectric_with_the_colours_of_the_field():
    material, points = materials(), torch.rand(50, 3, generator=draw()) - 0.5
    values = material(points)
    assert torch.allclose(values[:, :3], material.field.colour(points))
    assert torch.allclose(values[:, 3], torch.tensor(0.7), atol=0.02)
    assert torch.allclose(values[:, 4], torch.tensor(0.05), atol=0.01)


def test_all_parameters_are_trained_through_the_light():
    mesh = ball(materials())
    mesh.render(VIEWS, 24, draw()).rgb.square().sum().backward()
    groups = {group["name"]: group["params"] for group in mesh.parameter_groups()}
    assert set(groups) == {"grid", "networks"} and len(groups["networks"]) == 8
    for parameter in (parameter for group in groups.values() for parameter in group):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_the_fit_takes_the_light_out_of_the_colours(monkeypatch):
    """The light in the field's colours is that of the scene, so the base colour is uniform although they are not."""
    monkeypatch.setattr(colour_fit, "VIEWS", 12)
    monkeypatch.setattr(colour_fit, "LOWEST_SIDE", 32)
    field = Lit(SHAPE, draw())
    field.update_occupancy(0)
    lamp = Lighting(torch.tensor([[1.0, 0, 0]]), torch.full((1, 3), torch.pi), torch.zeros(4, 3))
    material = materials()
    fit_colours(field, mesh := ball(material, lamp), CONFIG, draw())
    with torch.no_grad():
        side = torch.nn.functional.normalize(mesh.vertices, dim=1)[:, 0]
        base = to_linear(material(mesh.vertices)[:, :3]).mean(1)
        shown, target = mesh.render(VIEWS, 32), field.render(VIEWS, 32, background="white").rgb
        inside = (shown.opacity > 0.99).expand_as(target)
    bright, dim = base[side > 0.9].mean(), base[(side > 0.35) & (side < 0.6)].mean()
    assert 0.35 < float(bright) < 0.65
    assert float(dim) == pytest.approx(float(bright), rel=0.25)
    assert -10 * (shown.rgb - target)[inside].square().mean().log10() > 25


def test_the_materials_of_a_fitted_mesh_read_back(tmp_path):
    made = [materials(), MaterialField(RadianceField(SHAPE, draw()), torch.Generator().manual_seed(1))]
    with torch.no_grad():
        for parameter in made[1].parameters():
            parameter.add_(0.1)
    fields = [material.field for material in made]
    store.save_fields(tmp_path, SHAPE, fields)
    assert store.load_materials(tmp_path, fields) is None
    store.save_materials(tmp_path, made)
    again = store.load_materials(tmp_path, store.load_fields(tmp_path, device="cpu", backend="auto"))
    points = torch.rand(20, 3, generator=draw()) - 0.5
    assert again is not None and len(again) == 2
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one(points), other(points))


def material_of(points):
    """Return a smooth material that differs in every direction."""
    waves = (torch.sin(points @ torch.tensor([[9.0, 0, 5, 4, 0], [0, 7.0, 0, 0, 6], [3.0, 0, 8, 6, 3]])) + 1) / 2
    return torch.cat([waves[:, :3], 0.2 + 0.7 * waves[:, 3:4], waves[:, 4:]], 1)


def test_the_exported_file_looks_like_the_scene(tmp_path):
    light = studio(torch.Generator().manual_seed(3))
    scene = ball(material_of, light)
    made = finish(scene.vertices, scene.faces, material_of, ExportConfig(faces=20_000, texture_size=512))
    assert made.texture.shape == (512, 512, 5)
    assert np.allclose(made.colours, material_of(torch.from_numpy(made.vertices))[:, :3].numpy(), atol=1e-6)
    path = write_glb(tmp_path / "mesh.glb", made.mesh, made.texture)
    expected = scene.render(VIEWS, 64, supersampling=2).rgb
    error = (load_glb(path, lighting=light).render(VIEWS, 64).rgb - expected).square().mean()
    other = (load_glb(path).render(VIEWS, 64).rgb - expected).square().mean()
    assert -10 * error.log10() > 35
    assert other > 10 * error, "another light looks different"
