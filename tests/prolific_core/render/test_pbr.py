"""Physically based shading, compared with closed-form values, integrals and a rendered ball."""

import math

import pytest
import torch

from prolific_core.render.mesh import pbr
from prolific_core.render.mesh.lights import Lighting, studio
from prolific_core.render.mesh.lit import lit_colours, to_linear, to_srgb

UP = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def towards(angle: float) -> torch.Tensor:
    """Return the direction (1, 3) at an angle in degrees from the normal."""
    angle = math.radians(angle)
    return torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]], dtype=torch.float64)


def hemisphere(count: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Return directions (N, 3) around +z, and their solid angles (N,), uniform in cos and azimuth."""
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    cosine, azimuth = torch.meshgrid(middle, 2 * math.pi * middle, indexing="ij")
    sine = (1 - cosine.square()).sqrt()
    directions = torch.stack([sine * azimuth.cos(), sine * azimuth.sin(), cosine], -1).view(-1, 3)
    return directions, torch.full((len(directions),), 2 * math.pi / count**2, dtype=torch.float64)


def reflected(base, roughness, metallic, angle) -> torch.Tensor:
    """Return the fraction (3,) of light that a surface reflects, by integration over the directions of the light."""
    light, weight = hemisphere()
    many = len(light)
    shown = pbr.brdf(
        torch.full((many, 3), base, dtype=torch.float64),
        number(roughness).expand(many, 1),
        number(metallic).expand(many, 1),
        UP.expand(many, 3),
        light,
        towards(angle).expand(many, 3),
    )
    return (shown * (light[:, 2] * weight)[:, None]).sum(0)


@pytest.mark.parametrize("roughness", [0.5, 0.7, 1.0])
def test_the_distribution_of_normals_is_normalised(roughness):
    direction, weight = hemisphere()
    density = pbr.ggx_distribution(direction[:, 2], torch.full_like(weight, roughness**2))
    assert float((density * direction[:, 2] * weight).sum()) == pytest.approx(1, rel=2e-3)


def test_facing_light_and_camera_give_the_closed_form():
    """If N = L = V, then F = f0, V = 1/4 and D = 1 / (pi alpha^2)."""
    base, roughness, metallic = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64), 0.6, 0.3
    f0 = 0.04 * 0.7 + 0.3 * base
    expected = (1 - f0) * 0.7 * base / math.pi + f0 / (4 * math.pi * roughness**4)
    shown = pbr.brdf(base, number(roughness), number(metallic), UP, UP, UP)
    assert torch.allclose(shown, expected, rtol=1e-12)


def test_a_rough_dielectric_at_an_angle_has_the_closed_form():
    """If alpha = 1, then D = 1/pi and V = 1 / ((N.L + 1) (N.V + 1)). Light and camera mirror each other."""
    cosine = math.cos(math.radians(60))
    fresnel = 0.04 + 0.96 * (1 - cosine) ** 5
    expected = (1 - fresnel) * 0.5 / math.pi + fresnel / math.pi / (cosine + 1) ** 2
    mirror = towards(60) * torch.tensor([-1.0, 1.0, 1.0])
    shown = pbr.brdf(torch.full((1, 3), 0.5, dtype=torch.float64), number(1), number(0), UP, towards(60), mirror)
    assert torch.allclose(shown, torch.full((1, 3), expected, dtype=torch.float64), rtol=1e-12)


def test_the_visibility_is_smiths():
    """V = G(l) G(v) / (4 N.L N.V), where G = 2 / (1 + sqrt(1 + alpha^2 tan^2)) for each direction."""
    alpha, angles = 0.3, torch.tensor([0.2, 0.9, 1.4], dtype=torch.float64)
    masking = 2 / (1 + (1 + alpha**2 * angles.tan().square()).sqrt())
    light, camera = angles.cos(), angles.flip(0).cos()
    expected = masking * masking.flip(0) / (4 * light * camera)
    assert torch.allclose(pbr.smith_visibility(light, camera, torch.full_like(light, alpha)), expected, rtol=1e-12)


def test_light_and_camera_can_be_exchanged():
    draw = torch.Generator().manual_seed(0)
    base, roughness, metallic = (torch.rand(50, n, generator=draw, dtype=torch.float64) for n in (3, 1, 1))
    a, b = (torch.nn.functional.normalize(torch.rand(50, 3, generator=draw, dtype=torch.float64)) for _ in range(2))
    one, other = (pbr.brdf(base, roughness, metallic, UP.expand(50, 3), *pair) for pair in ((a, b), (b, a)))
    assert torch.allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("roughness", [0.4, 0.6, 1.0])
@pytest.mark.parametrize("angle", [0.0, 45.0, 75.0])
def test_a_white_surface_reflects_no_more_light_than_it_receives(roughness, angle):
    """The diffuse and the specular term of a dielectric are not coupled; see the module's docstring."""
    assert 0.3 < float(reflected(1.0, roughness, 1.0, angle).max()) <= 1.0
    assert 0.95 < float(reflected(1.0, roughness, 0.0, angle).max()) <= (1.15 if angle > 45 else 1.003)


@pytest.mark.parametrize("f0", [0.04, 1.0])
@pytest.mark.parametrize("roughness", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("angle", [0.0, 60.0, 75.0])
def test_the_table_of_the_environment_holds_the_integral(f0, roughness, angle):
    """The specular term of a metal with base colour f0 is the whole reflectance."""
    found = pbr.environment_reflectance(
        torch.full((1, 3), f0, dtype=torch.float64), number(roughness), towards(angle)[:, 2:]
    )
    assert torch.allclose(found[0], reflected(f0, roughness, 1.0, angle), atol=0.006)


def uniform(radiance: float) -> Lighting:
    sky = torch.zeros(4, 3, dtype=torch.float64)
    sky[0] = radiance
    return Lighting(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64), sky)


def test_a_uniform_environment_lights_a_white_surface_with_its_own_radiance():
    """A furnace: a white dielectric reflects all light, and a rough metal that faces the camera 1 - log(2) of it."""
    draw = torch.Generator().manual_seed(1)
    normal = torch.nn.functional.normalize(torch.randn(20, 3, generator=draw, dtype=torch.float64), dim=1)
    roughness = torch.rand(20, 1, generator=draw, dtype=torch.float64)
    white, zero = torch.ones(20, 3, dtype=torch.float64), torch.zeros(20, 1, dtype=torch.float64)
    assert torch.allclose(pbr.shade(white, roughness, zero, normal, normal, uniform(0.7)), 0.7 * white)
    metal = pbr.shade(white, roughness, zero + 1, normal, normal, uniform(0.7))
    assert metal.max() <= 0.7 and metal.min() > 0.7 * 0.3
    rough = pbr.shade(white, zero + 1, zero + 1, normal, normal, uniform(0.7))
    assert torch.allclose(rough, 0.7 * (1 - math.log(2)) * white, rtol=2e-3)


def test_the_irradiance_of_a_sloped_sky_is_its_integral():
    sky = Lighting(torch.zeros(0, 3), torch.zeros(0, 3), torch.tensor([[0.5] * 3, [0.1] * 3, [0.0] * 3, [0.3] * 3]))
    light, weight = hemisphere()
    radiance = 0.5 + 0.1 * light[:, 0] + 0.3 * light[:, 2]
    found = sky.diffuse(UP.float())
    assert torch.allclose(found, torch.full((1, 3), float((radiance * light[:, 2] * weight).sum())), rtol=1e-4)


def test_a_directional_light_adds_up_with_others_and_stops_at_the_terminator():
    one = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    light = Lighting(one, torch.full((2, 3), 2.0, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64))
    base = torch.full((1, 3), 0.5, dtype=torch.float64)
    shown = pbr.shade(base, number(0.5), number(0), UP, towards(30), light)
    assert torch.allclose(shown, 2 * pbr.brdf(base, number(0.5), number(0), UP, UP, towards(30)))
    sideways = pbr.shade(base, number(0.5), number(0), towards(90), towards(90), light)
    assert float(sideways.abs().max()) < 1e-12


def test_gradients_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(2)
    material = torch.rand(6, 5, generator=draw, dtype=torch.float64) * 0.8 + 0.15
    normal, camera = (
        torch.nn.functional.normalize(torch.randn(6, 3, generator=draw, dtype=torch.float64), dim=1) for _ in range(2)
    )
    camera = torch.where((camera * normal).sum(1, keepdim=True) > 0, camera, -camera)
    light = studio(draw)
    assert torch.autograd.gradcheck(
        lambda m, n, c: lit_colours(m, n, c, light), [x.requires_grad_() for x in (material, normal, camera)]
    )


def test_srgb_has_the_standards_values_and_comes_back():
    linear = torch.tensor([0.0, 0.001, 0.0031308, 0.2140411, 0.5, 1.0, 1.5], dtype=torch.float64)
    assert float(to_srgb(linear)[3]) == pytest.approx(0.5, abs=1e-6)
    assert float(to_srgb(linear)[4]) == pytest.approx(0.7353569830524495, abs=1e-9)
    assert torch.allclose(to_linear(to_srgb(linear)), linear, atol=1e-6)


def test_the_studio_lights_white_to_white_and_is_seeded():
    key = studio().directions[:1].double()
    white, rough = torch.ones(1, 3, dtype=torch.float64), number(1)
    material = torch.cat([white, rough, 0 * rough], 1)
    bright = lit_colours(material, key, key, studio())
    dark = lit_colours(material, -key, -key, studio())
    assert 0.93 < float(bright.mean()) < 1.05 and 0.4 < float(dark.mean()) < 0.6
    a, b, c = (studio(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(a.directions, b.directions) and not torch.equal(a.directions, c.directions)
    assert torch.allclose(a.directions.norm(dim=1), torch.ones(3))
