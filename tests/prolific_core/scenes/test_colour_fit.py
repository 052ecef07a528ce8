"""Colours fitted to a field whose surface has another colour than its renders show."""

import pytest
import torch

from prolific_core.cameras import orbit
from prolific_core.config import CameraConfig, FieldConfig, TextureConfig
from prolific_core.mesh.extract import marching_tetrahedra
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.scenes import colour_fit
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.colour_fit import fit_colours, shown_colours
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.textured_mesh import TexturedMesh

SHAPE = FieldConfig(levels=2, log2_entries=12, max_resolution=24, hidden_width=16, samples_per_ray=256)
CONFIG = TextureConfig(
    fit_steps=80,
    resolution=[(0.0, 32)],
    cameras=CameraConfig(distance=(1.3, 1.5), fov=(43.0, 48.0), elevation=(-10, 60)),
)


class Veiled(RadianceField):
    """Ball of radius .3, red in its upper half and blue in its lower half, under a thin white veil."""

    def forward(self, x, noise=None):
        radius = x.norm(dim=-1)
        density = 80 * torch.sigmoid((0.29 - radius) * 200) + 2 * (radius < 0.31)
        inner = torch.where(x[:, 2:] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
        return density, torch.where(radius[:, None] > 0.295, torch.ones(3), inner)


@pytest.fixture
def field(monkeypatch):
    monkeypatch.setattr(colour_fit, "VIEWS", 8)
    monkeypatch.setattr(colour_fit, "LOWEST_SIDE", 32)
    made = Veiled(SHAPE, torch.Generator())
    made.update_occupancy(0)
    return made


def ball(colour) -> TexturedMesh:
    points = grid_points(24, 0.5)
    return TexturedMesh(*marching_tetrahedra(points, 0.3 - points.norm(dim=-1), 24), colour, train_config=CONFIG)


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_shown_colour_is_that_behind_the_veil(field):
    mesh = ball(field.colour)
    shown = shown_colours(field, mesh, CONFIG, draw())
    assert len(shown.points) > 1000
    assert torch.allclose(shown.points.norm(dim=1), torch.tensor(0.3), atol=0.01)
    assert shown.weights.min() >= 0 and shown.weights.max() <= 1
    top = (shown.points[:, 2] > 0.05) & (shown.weights > 0.7)
    assert shown.colours[top].mean(0)[0] > 0.8 and shown.colours[top].mean(0)[2] < 0.25
    assert field.colour(shown.points).mean() > 0.95, "the point query sees the white veil"


def test_fitted_colours_make_renders_like_those_of_the_field(field):
    mesh = ball(ColourField(RadianceField(SHAPE, draw())))
    views = orbit(3, elevation=20, distance=1.4, fov=45)
    with torch.no_grad():
        target = field.render(views, 32, background="white").rgb
    fit_colours(field, mesh, CONFIG, draw())
    assert all(parameter.grad is None for parameter in mesh.parameters())
    fitted, queried = (made.render(views, 32).rgb.detach() for made in (mesh, ball(field.colour)))
    error, before = ((image - target).square().mean() for image in (fitted, queried))
    assert error < before / 4
    again = ball(ColourField(RadianceField(SHAPE, draw())))
    fit_colours(field, again, CONFIG, draw())
    assert torch.equal(again.render(views, 32).rgb, mesh.render(views, 32).rgb)


def test_without_steps_nothing_changes(field):
    mesh = ball(ColourField(RadianceField(SHAPE, draw())))
    before = {name: value.clone() for name, value in mesh.state_dict().items()}
    fit_colours(field, mesh, CONFIG.model_copy(update={"fit_steps": 0}), draw())
    assert all(torch.equal(value, before[name]) for name, value in mesh.state_dict().items())
