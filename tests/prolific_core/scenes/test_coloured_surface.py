"""A surface whose shape and colours are optimised together."""

import torch
from torch import nn

from prolific_core.cameras import orbit
from prolific_core.config import FieldConfig, GeometryConfig, ShadingConfig
from prolific_core.scenes.backgrounds import some_random
from prolific_core.scenes.base import Scene
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.coloured_surface import ColouredSurface
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.shading import draw_lights
from prolific_core.scenes.surface import TetrahedralSurface

SHAPE = FieldConfig(levels=2, log2_entries=10, max_resolution=16, hidden_width=8)


def coloured(radius=0.3, **config):
    train = GeometryConfig(learning_rate=0.01, network_learning_rate=0.01, laplacian=0.0, **config)
    surface = TetrahedralSurface(16, 0.6, "torch", train)
    surface.sdf.data = radius - surface.points.norm(dim=-1)
    return ColouredSurface(surface, ColourField(RadianceField(SHAPE, torch.Generator().manual_seed(0), "torch")))


def test_shape_and_colour_follow_an_image():
    """The target is a larger blue ball; its colour reaches the network, and its outline the signed distances."""
    views = orbit(2, elevation=20, distance=1.5, fov=45)
    blue = torch.tensor([0.1, 0.2, 0.9])
    target = TetrahedralSurface(16, 0.6, "torch")
    target.sdf.data = 0.36 - target.points.norm(dim=-1)
    with torch.no_grad():
        shown = target.render(
            views, 32, shader=lambda hits, points, normals: blue.expand(len(points), 3), background=1.0
        )
    made = coloured()
    assert isinstance(made, Scene)
    optimizer, losses = torch.optim.Adam(made.parameter_groups()), []
    before = made.render(views, 32)
    for _ in range(40):
        loss = (made.render(views, 32).rgb - shown.rgb).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    after = made.render(views, 32)
    assert losses[-1] < 0.1 * losses[0]
    assert before.opacity.mean() < 0.8 * shown.opacity.mean() < after.opacity.mean() < 1.1 * shown.opacity.mean()
    centre = after.rgb[:, :, 16, 16].mean(0)
    assert (centre - blue).abs().max() < 0.2, centre


def test_without_colours_the_render_is_that_of_the_normals():
    made, views = coloured(), orbit(2, elevation=20, distance=1.5, fov=45)
    plain, render = made.surface.render(views, 16), made.render(views, 16)
    assert render.normal is not None and torch.equal(plain.rgb, render.normal)
    assert torch.equal(plain.opacity, render.opacity)
    assert (render.rgb[:, :, 0, 0] == 1).all()  # white behind


def test_training_renders_have_random_backgrounds_and_the_shapes_losses():
    made, views = coloured(random_background=1.0), orbit(2, elevation=20, distance=1.5, fov=45)
    render = made.render(views, 16, torch.Generator().manual_seed(1))
    corner = render.rgb[:, :, 0, 0]
    assert not torch.allclose(corner[0], corner[1]) and (corner < 1).all()
    assert list(made.losses(render, 0.5)) == ["normal_consistency"]
    assert made.losses(render, 0.5)["normal_consistency"] == 5000 * render.losses["normal_consistency"]


def test_shaded_steps_show_the_surface_under_a_light():
    shading = ShadingConfig(probability=1.0, textureless=1.0, ambient=0.2)
    made, views = coloured(random_background=1.0, shading=shading), orbit(2, elevation=20, distance=1.5, fov=45)
    render = made.render(views, 32, torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(1)
    some_random(torch.ones(2, 3, 1, 1), 1.0, g)
    lights = draw_lights(shading, views, 0.0, g)
    assert render.normal is not None and render.depth is not None and lights is not None
    origins, directions = views.rays(32)
    points = origins + render.depth[:, 0, ..., None] * directions
    normals = (2 * render.normal - 1).permute(0, 2, 3, 1)
    towards = torch.nn.functional.normalize(lights.positions[:, None, None] - points, dim=-1)
    expected = 0.8 * (normals * towards).sum(-1).clamp(min=0) + 0.2
    inside = -torch.nn.functional.max_pool2d(-render.opacity, 3, 1, 1)[:, 0] > 0.99
    assert inside.sum() > 100 and expected[inside].std() > 0.1
    for channel in render.rgb.unbind(1):  # white under the light
        torch.testing.assert_close(channel[inside], expected[inside], atol=5e-3, rtol=0)
    render.rgb.sum().backward()
    assert made.surface.sdf.grad is not None and made.surface.sdf.grad.abs().max() > 0
    assert (made.render(views, 32).rgb[:, :, 16, 16] < 0.9).any()  # other renders show the colours


def test_every_trained_parameter_is_in_one_group():
    made = coloured()
    rates = {group.get("name", "shape"): group["lr"] for group in made.parameter_groups()}
    assert rates == {"shape": 0.01, "grid": 0.01, "networks": 0.01}
    grouped = [parameter for group in made.parameter_groups() for parameter in group["params"]]
    background = made.colour.field.background
    assert isinstance(background, nn.Module)
    unused = {id(parameter) for parameter in background.parameters()}
    assert {id(p) for p in grouped} == {id(p) for p in made.parameters()} - unused
