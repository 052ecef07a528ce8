"""Shading of the radiance field by a point light: the closed form, its gradients, and the schedule."""

import math

import pytest
import torch
import torch.nn.functional as F

from prolific_core import cameras
from prolific_core.config import FieldConfig, NerfConfig, ShadingConfig
from prolific_core.memory import field_pixel_bytes
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.shading import DISTANCE, Lights, draw_lights, lambertian, probability_at

RADIUS, ALBEDO = 0.5, torch.tensor([0.8, 0.5, 0.2])
ALWAYS = {"probability": 1.0, "textureless": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Ball(RadianceField):
    """Ball whose optical depth along its normal is 1 at its radius, with a constant colour."""

    def forward(self, x, noise=None):
        thickness = 0.02
        density = ((RADIUS - x.norm(dim=-1)) / thickness).clamp(max=20).exp() / thickness
        return density, ALBEDO.expand(len(x), 3) + 0 * self.encoding.table.sum()


def ball(**shading):
    shape = FieldConfig(
        levels=1,
        log2_entries=4,
        samples_per_ray=1024,
        occupancy_resolution=16,
        density_noise=0.0,
        background="black",
    )
    train = NerfConfig(random_background=0.0, shading=ShadingConfig(**shading))
    return Ball(shape, generator(), "torch", train_config=train)


def visible_points(view, side):
    """Return the points (N, 3) of the ball that the pixels show, their indices, and the cosines of incidence."""
    origins, directions = (part.reshape(-1, 3) for part in view.rays(side))
    along = (origins * directions).sum(-1)
    inside = along.square() - origins.square().sum(-1) + RADIUS**2
    pixels = (inside > 0).nonzero()[:, 0]
    points = origins[pixels] + (-along[pixels] - inside[pixels].sqrt())[:, None] * directions[pixels]
    return points, pixels, -(points / RADIUS * directions[pixels]).sum(-1)


@pytest.mark.parametrize("textureless", [False, True])
@pytest.mark.parametrize("light", [(1.2, 0.4, 0.3), (-0.2, 1.3, 0.5), (0.7, -1.1, 0.4)])
def test_a_shaded_ball_has_the_intensity_of_lamberts_law(light, textureless):
    view, side, ambient = cameras.orbit(1, elevation=20, distance=1.6, fov=45), 24, 0.2
    lights = Lights(torch.tensor([light]), ambient, textureless)
    with torch.no_grad():
        render = ball().render_rays(*view.rays(side), lights=lights)
    points, pixels, facing = visible_points(view, side)
    chosen = facing > 0.7
    points, pixels = points[chosen], pixels[chosen]
    assert len(points) > 100
    towards = torch.tensor(light) - points
    cosine = (points / RADIUS * towards / towards.norm(dim=-1, keepdim=True)).sum(-1).clamp(min=0)
    albedo = torch.ones(3) if textureless else ALBEDO
    expected = albedo * (ambient + (1 - ambient) * cosine)[:, None]
    assert expected.max() - expected.min() > 0.1  # bright and dark sides
    found = render.rgb[0].reshape(3, -1).T[pixels]
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)  # the ball's edge is .02 thick


def test_each_image_has_its_own_light():
    views = cameras.orbit(2, elevation=20, distance=1.6, fov=45)
    front = views.c2w[:, :3, 3]  # of the two cameras, which are opposite each other
    for lights, bright in ((front, (1.0, 1.0)), (front.flip(0), (0.1, 0.1)), (front[[0, 0]], (1.0, 0.1))):
        with torch.no_grad():
            lit = ball().render_rays(*views.rays(8), lights=Lights(lights, 0.1, False))
        for colour, factor in zip(lit.rgb[:, :, 4, 4], bright, strict=True):
            torch.testing.assert_close(colour, factor * ALBEDO, atol=0.05, rtol=0)


def test_gradients_of_lamberts_law():
    def values(seed):
        return torch.rand(6, 3, generator=generator(seed), dtype=torch.float64) - 0.5

    albedo, points, light = values(0) + 0.5, values(1), values(2) + 2
    normals = F.normalize(light - points + 0.4 * values(3), dim=-1)  # lit, away from the kink
    given = [part.requires_grad_() for part in (albedo, normals, points, light)]
    assert torch.autograd.gradcheck(lambda a, n, x, at: lambertian(a, n, x, at, 0.3), given)
    assert torch.equal(lambertian(albedo, -normals, points, light, 0.3), 0.3 * albedo)  # in the dark


def rough(**shading):
    shape = FieldConfig(
        levels=4, log2_entries=11, base_resolution=4, max_resolution=32, hidden_width=16, samples_per_ray=96
    )
    train = NerfConfig(shading=ShadingConfig(**shading), random_background=0.0)
    made = RadianceField(shape, generator(4), "torch", train_config=train)
    made.encoding.table.data.normal_(0, 0.5, generator=generator(5))
    return made


def shaded(made, textureless=False, **options):
    """Return a shaded training render, and the sum of its colours with random weights."""
    kind = made.encoding.table.dtype
    rays = (part.to(kind) for part in cameras.orbit(1, elevation=20, distance=1.6, fov=45).rays(12))
    lights = Lights(torch.tensor([[1.0, 0.6, 0.7]], dtype=kind), 0.1, textureless)
    render = made.render_rays(*rays, generator=generator(6), background="white", lights=lights, **options)
    return render, (render.rgb * torch.rand(render.rgb.shape, generator=generator(7))).sum()


def gradients(made, **options):
    render, total = shaded(made, **options)
    total.backward()
    return render, {name: part.grad for name, part in made.named_parameters()}


def test_the_shape_learns_from_the_shading_of_a_white_surface():
    """The gradient of the field's parameters is that of finite differences, in float64."""
    made = rough().double()
    _, found = gradients(made, textureless=True)
    colour_rows, table = found["network.2.weight"], found["encoding.table"]
    assert colour_rows is not None and table is not None
    assert float(colour_rows[1:].abs().max()) == 0  # the colours are not seen
    step = torch.randn(made.encoding.table.shape, generator=generator(8), dtype=torch.float64)
    values = []
    for sign in (1, -2, 1):
        with torch.no_grad():
            made.encoding.table.add_(step, alpha=sign * 1e-6)
            values.append(float(shaded(made, textureless=True)[1]))
    slope = (values[0] - values[1]) / 2e-6
    assert slope == pytest.approx(float((table * step).sum()), rel=1e-4)
    assert abs(slope) > 0.1


@pytest.mark.parametrize("patch", [37, 100])
def test_patches_of_a_shaded_image_give_the_whole_images_gradients(patch):
    (whole, expected), (pieces, found) = gradients(rough()), gradients(rough(), patch=patch)
    torch.testing.assert_close(pieces.rgb, whole.rgb, atol=1e-6, rtol=0)
    for name, gradient in expected.items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_without_shading_a_training_render_has_the_bytes_that_it_had():
    made, plain = rough(probability=0.0, start=0.5), rough()
    view, random = cameras.orbit(2, elevation=20, distance=1.6, fov=45), generator(1)
    before = generator(1)
    assert draw_lights(made.train_config.shading, view, 0.9, random) is None
    assert torch.equal(random.get_state(), before.get_state())  # nothing is drawn
    made.progress = 0.9
    assert torch.equal(made.render(view, 8, generator(2)).rgb, plain.render(view, 8, generator(2)).rgb)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0), (0.19, 0), (0.2, 0), (0.25, 0.2), (0.3, 0.4), (0.4, 0.8), (1.0, 0.8)]
)
def test_the_probability_increases_softly(progress, expected):
    config = ShadingConfig(probability=0.8, start=0.2, ramp=0.2)
    assert probability_at(config, progress) == pytest.approx(expected)


def test_without_a_ramp_shading_begins_at_once():
    config = ShadingConfig(probability=0.8, start=0.2)
    assert [probability_at(config, progress) for progress in (0.199, 0.2, 1.0)] == [0, 0.8, 0.8]


def test_lights_are_drawn_with_the_configured_probabilities_near_the_camera():
    config = ShadingConfig(probability=0.75, textureless=0.5, ambient=0.1)
    view, random = cameras.orbit(2, elevation=20, distance=1.6, fov=45), generator()
    drawn = [draw_lights(config, view, 1.0, random) for _ in range(2000)]
    lit = [lights for lights in drawn if lights is not None]
    assert len(lit) / 2000 == pytest.approx(0.75, abs=0.03)
    assert sum(lights.textureless for lights in lit) / len(lit) == pytest.approx(0.5, abs=0.04)
    assert {lights.ambient for lights in lit} == {0.1}
    positions = torch.stack([lights.positions for lights in lit])
    distance = positions.norm(dim=-1)
    assert DISTANCE[0] <= distance.min() and distance.max() <= DISTANCE[1]
    assert float(distance.mean()) == pytest.approx(sum(DISTANCE) / 2, abs=0.02)
    towards = F.normalize(view.c2w[:, :3, 3], dim=-1)
    cosine = (F.normalize(positions, dim=-1) * towards).sum(-1).mean(0)
    # E[(1 + z) / |e + n|] with n ~ N(0, 1) in three dimensions, by quadrature of 10^7 draws.
    assert cosine.tolist() == pytest.approx([0.488] * 2, abs=0.03)


def test_soft_shading_draws_the_ambient_light():
    view, random = cameras.orbit(1, elevation=20, distance=1.6, fov=45), generator()
    drawn = [draw_lights(ShadingConfig(probability=1.0, soft=True), view, 1.0, random) for _ in range(500)]
    ambient = torch.tensor([lights.ambient for lights in drawn if lights is not None])
    assert len(ambient) == 500
    assert 0 <= ambient.min() < 0.02 and 0.98 < ambient.max() <= 1
    assert float(ambient.mean()) == pytest.approx(0.5, abs=0.04)


def test_a_training_render_is_shaded_after_the_start_and_a_deterministic_one_never():
    made = ball(**ALWAYS, start=0.5, ambient=0.0)
    view = cameras.orbit(1, elevation=20, distance=1.6, fov=45)
    with torch.no_grad():
        plain = made.render(view, 8, background="black").rgb
        early = made.render(view, 8, generator(3), background="black").rgb
        made.progress = 0.5
        late = made.render(view, 8, generator(3), background="black").rgb
        again = made.render(view, 8, background="black").rgb
    assert torch.equal(plain, again)
    torch.testing.assert_close(early, plain, atol=0.05, rtol=0)  # only the jitter of its samples differs
    assert (plain - late).max() > 0.1


def test_the_memory_of_normals_is_part_of_the_estimate():
    shape, train = FieldConfig(), NerfConfig()
    shaded = train.model_copy(update={"shading": ShadingConfig(probability=0.5)})
    assert field_pixel_bytes(shape, shaded) == 7 * field_pixel_bytes(shape, train)
    assert math.isfinite(field_pixel_bytes(shape, shaded))
