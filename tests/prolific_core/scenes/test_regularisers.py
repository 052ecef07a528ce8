"""Regularisers of a radiance field's renders, by their formulas."""

import math

import pytest
import torch

from prolific_core import cameras
from prolific_core.config import FieldConfig, NerfConfig
from prolific_core.render import Render
from prolific_core.scenes import regularisers
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.seeding import generator


def render_of(opacity, weights=None):
    return Render(
        rgb=torch.zeros(1, 3, 1, len(opacity)), opacity=torch.tensor(opacity).view(1, 1, 1, -1), weights=weights
    )


def ball(**options) -> RadianceField:
    shape = FieldConfig(levels=2, log2_entries=10, max_resolution=32, hidden_width=8, **options)
    field = RadianceField(shape, generator(0, "field"))
    field.update_occupancy(0, generator(0, "occupancy"))
    return field


def test_opacity_and_sparsity():
    render = render_of([0.0, 0.5, 1.0])
    assert regularisers.opacity(render).item() == pytest.approx(0.5)
    expected = sum(math.sqrt(o * o + 0.01) for o in (0, 0.5, 1)) / 3
    assert regularisers.sparsity(render).item() == pytest.approx(expected)


def test_entropy_is_the_mean_binary_entropy_of_the_weights():
    bits = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert regularisers.entropy(render_of([0.75], torch.full((3,), 0.25))).item() == pytest.approx(3 * bits / 96)
    assert regularisers.entropy(render_of([0.5], torch.tensor([0.5]))).item() == pytest.approx(1 / 96)
    assert regularisers.entropy(render_of([0.0, 1.0], torch.tensor([0.0, 1.0]))).item() < 1e-5
    with pytest.raises(ValueError, match="volume"):
        regularisers.entropy(render_of([0.5]))


def test_entropy_equals_the_official_releases_on_its_sampling():
    """The release composites 64 even and 32 importance samples per ray, of which those in empty space have weight 0."""
    field = ball(density_scale=20.0, samples_per_ray=110, importance_samples=32)
    render = field.render(cameras.orbit(2, elevation=15, distance=1.25, fov=55), 24, generator(0, "render"))
    weights, rays = render.weights, render.opacity.numel()
    dense = torch.cat([weights, weights.new_zeros(96 * rays - len(weights))]).clamp(1e-5, 1 - 1e-5)
    release = (-dense * torch.log2(dense) - (1 - dense) * torch.log2(1 - dense)).mean()
    ours = regularisers.entropy(render)
    assert ours.item() == pytest.approx(release.item(), rel=0.02)
    bias = field.network[-1].bias
    gradients = [torch.autograd.grad(value, bias, retain_graph=True)[0][0].item() for value in (ours, release)]
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4) and abs(gradients[0]) > 1e-4


def test_orientation_punishes_only_normals_that_face_away():
    field = ball()
    origins, directions = cameras.orbit(1, elevation=0, distance=1.6, fov=45).rays(12)
    render = field.render_rays(origins, directions, normals=True)
    honest = regularisers.orientation(render, directions).item()
    flipped = regularisers.orientation(render, -directions).item()
    assert flipped > 5 * honest > 0
    with pytest.raises(ValueError, match="normals=True"):
        regularisers.orientation(field.render_rays(origins, directions), directions)


def test_random_backgrounds_begin_after_the_configured_steps():
    config = NerfConfig(random_background=1.0, random_background_after=3)
    field = RadianceField(ball().config.model_copy(update={"background": "white"}), train_config=config)
    views = cameras.orbit(1, elevation=0, distance=1.6, fov=45)
    corners = []
    for step in range(5):  # steps that are finished
        field.before_step(step, generator(step, "occupancy"))
        corners.append(field.render(views, 8, generator(step, "render")).rgb[0, :, 0, 0])
    plain = [bool((corner == 1).all()) for corner in corners]
    assert plain == [True, True, True, False, False]
