"""Physically based shading: the metallic-roughness material of glTF 2.0 under directional lights and an environment.

The material is the one of the glTF 2.0 specification, appendix B.3, without its extensions: a Cook-Torrance model with
the GGX distribution, Smith's masking and shadowing, and Schlick's Fresnel term, over a Lambertian base,

    f = (1 - F) c / pi + F D V,      c = (1 - metallic) base,      f0 = .04 (1 - metallic) + metallic base.

All colours are linear. Normals and directions are unit vectors that point away from the surface. As in the
specification, the two terms of a dielectric are not coupled, so that a smooth white one reflects 1.2 times the light of
a lamp at an angle of 75 degrees and 1.6 times at 85 degrees.
"""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from prolific_core.render.mesh.lights import Lighting

#: Reflectance of a dielectric at normal incidence, for an index of refraction of 1.5.
DIELECTRIC = 0.04

#: Smallest alpha of the GGX distribution. A smaller one has highlights that no pixel resolves.
LOWEST_ALPHA = 1e-3


def ggx_distribution(n_dot_h: Float[Tensor, "*points"], alpha: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Return the density D of microfacet normals, alpha^2 / (pi ((N.H)^2 (alpha^2 - 1) + 1)^2).

    Its integral over the hemisphere, weighted by N.H, is 1.

    Args:
        n_dot_h: Cosine between the normal and the half vector, in [0, 1].
        alpha: The square of the roughness, in (0, 1].
    """
    square = alpha * alpha
    return square / (math.pi * (n_dot_h * n_dot_h * (square - 1) + 1).square())


def smith_visibility(
    n_dot_l: Float[Tensor, "*points"], n_dot_v: Float[Tensor, "*points"], alpha: Float[Tensor, "*points"]
) -> Float[Tensor, "*points"]:
    """Return the visibility V = G / (4 N.L N.V), the product over x = N.L, N.V of 1 / (x + sqrt(a^2 + (1 - a^2) x^2)).

    Args:
        n_dot_l: Cosine between the normal and the direction towards the light, in [0, 1].
        n_dot_v: Cosine between the normal and the direction towards the camera, in [0, 1].
        alpha: The square of the roughness, in (0, 1].
    """
    square = alpha * alpha

    def side(cosine: Tensor) -> Tensor:
        return cosine + (square + (1 - square) * cosine * cosine).sqrt()

    return 1 / (side(n_dot_l) * side(n_dot_v))


def schlick_fresnel(f0: Float[Tensor, "*points 3"], v_dot_h: Float[Tensor, "*points 1"]) -> Float[Tensor, "*points 3"]:
    """Return the Fresnel reflectance F = f0 + (1 - f0) (1 - V.H)^5.

    Args:
        f0: Reflectance at normal incidence, in [0, 1].
        v_dot_h: Cosine between the half vector and the direction towards the camera, in [0, 1].
    """
    return f0 + (1 - f0) * (1 - v_dot_h) ** 5


def brdf(
    base: Float[Tensor, "*points 3"],
    roughness: Float[Tensor, "*points 1"],
    metallic: Float[Tensor, "*points 1"],
    normal: Float[Tensor, "*points 3"],
    to_light: Float[Tensor, "*#points 3"],
    to_camera: Float[Tensor, "*points 3"],
) -> Float[Tensor, "*points 3"]:
    """Return the reflectance f of the material per unit solid angle (glTF 2.0, appendix B.3.5).

    Args:
        base: Linear base colour in [0, 1].
        roughness: Roughness in [0, 1].
        metallic: Metalness in [0, 1].
        normal: Unit normal. The sign of its cosines is ignored, as in the specification.
        to_light: Unit direction towards the light.
        to_camera: Unit direction towards the camera.
    """
    half = to_light + to_camera
    half = half / (half.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    alpha = (roughness * roughness).clamp(min=LOWEST_ALPHA)
    n_dot_l, n_dot_v, n_dot_h = (_dot(normal, direction).abs() for direction in (to_light, to_camera, half))
    fresnel = schlick_fresnel(_f0(base, metallic), _dot(to_camera, half).clamp(0, 1))
    specular = fresnel * ggx_distribution(n_dot_h, alpha) * smith_visibility(n_dot_l, n_dot_v, alpha)
    return (1 - fresnel) * (1 - metallic) * base / math.pi + specular


def environment_reflectance(
    f0: Float[Tensor, "points 3"], roughness: Float[Tensor, "points 1"], n_dot_v: Float[Tensor, "points 1"]
) -> Float[Tensor, "points 3"]:
    """Return the fraction of uniform light that the specular term reflects, f0 A + B.

    A and B, which depend on roughness and angle, are interpolated in a table; see `specular_table`.

    Args:
        f0: Reflectance at normal incidence, in [0, 1].
        roughness: Roughness in [0, 1].
        n_dot_v: Cosine between the normal and the direction towards the camera, in [0, 1].
    """
    table = specular_table().to(f0)
    place = torch.cat([n_dot_v, roughness], -1) * 2 - 1
    a, b = grid_sample(table[None], place[None, None], align_corners=True)[0, :, 0].T.split(1, dim=-1)
    return f0 * a + b


@cache
def specular_table(size: int = 32, samples: int = 64) -> Float[Tensor, "2 size size"]:
    """Integrate F D V N.L over the directions of the light.

    With Schlick's F, the integral is f0 A + B, where A has the factor 1 - (1 - V.H)^5 and B has (1 - V.H)^5. Half
    vectors are drawn from the distribution D N.H (Karis, "Real Shading in Unreal Engine 4", 2013), here on a regular
    grid of samples.

    Args:
        size: Number of values of the roughness (rows) and of N.V (columns), from 0 to 1.
        samples: Number of samples along each of two axes.

    Returns:
        A and B, float64.
    """
    line = torch.linspace(0, 1, size, dtype=torch.float64)
    middle = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    roughness, n_dot_v, u, turn = torch.meshgrid(
        line, line.clamp(min=1e-3), middle, 2 * math.pi * middle, indexing="ij"
    )
    alpha = (roughness * roughness).clamp(min=LOWEST_ALPHA)
    n_dot_h = ((1 - u) / (1 + (alpha * alpha - 1) * u)).sqrt()
    v_dot_h = (1 - n_dot_v**2).sqrt() * (1 - n_dot_h**2).sqrt() * turn.cos() + n_dot_v * n_dot_h
    n_dot_l = 2 * v_dot_h * n_dot_h - n_dot_v
    seen = (n_dot_l > 0) & (v_dot_h > 0)
    # The density of the light's direction is D N.H / (4 V.H).
    weight = 4 * smith_visibility(n_dot_l.clamp(min=0), n_dot_v, alpha) * n_dot_l * v_dot_h / n_dot_h
    weight = torch.where(seen, weight, 0.0)
    grazing = (1 - v_dot_h.clamp(0, 1)) ** 5
    return torch.stack([(weight * (1 - grazing)).mean((2, 3)), (weight * grazing).mean((2, 3))])


def shade(
    base: Float[Tensor, "points 3"],
    roughness: Float[Tensor, "points 1"],
    metallic: Float[Tensor, "points 1"],
    normal: Float[Tensor, "points 3"],
    to_camera: Float[Tensor, "points 3"],
    lighting: Lighting,
) -> Float[Tensor, "points 3"]:
    """Return the linear colours that the points show, without shadows and light between surfaces.

    Args:
        base: Linear base colours (N, 3) in [0, 1].
        roughness: Roughness (N, 1) in [0, 1].
        metallic: Metalness (N, 1) in [0, 1].
        normal: Unit normals (N, 3).
        to_camera: Unit directions (N, 3) towards the camera.
        lighting: The light, on the same device.

    Returns:
        Colours (N, 3), at least 0 and not bounded by 1.
    """
    shown = torch.zeros_like(base)
    for direction, irradiance in zip(lighting.directions, lighting.irradiances, strict=True):
        facing = _dot(normal, direction).clamp(min=0)
        shown = shown + brdf(base, roughness, metallic, normal, direction, to_camera) * irradiance * facing
    n_dot_v = _dot(normal, to_camera)
    reflected = environment_reflectance(_f0(base, metallic), roughness, n_dot_v.abs().clamp(max=1))
    mirrored = 2 * n_dot_v * normal - to_camera
    diffuse = (1 - reflected) * (1 - metallic) * base / math.pi * lighting.diffuse(normal)
    return shown + diffuse + reflected * lighting.blurred(mirrored, roughness)


def _f0(base: Tensor, metallic: Tensor) -> Tensor:
    return DIELECTRIC * (1 - metallic) + metallic * base


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)
