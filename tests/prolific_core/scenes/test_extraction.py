"""Extraction of a surface from a field, on densities whose optical depth and shape are known."""

import math

import pytest
import torch

from prolific_core.cameras import orbit
from prolific_core.config import FieldConfig, GeometryConfig
from prolific_core.mesh.components import drop_floaters, fill_hollows
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.scenes import extraction
from prolific_core.scenes.extraction import DENSITIES, extract_surface, matching_threshold
from prolific_core.scenes.optical_depth import least_optical_depth, optical_depth, spread_directions
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.surface import TetrahedralSurface, values_on_grid

SIDE, EXTENT = 49, 0.6


def grid(function):
    return values_on_grid(function, SIDE - 1, EXTENT).view(SIDE, SIDE, SIDE)


def radius(points):
    return points.norm(dim=-1)


def soft_ball(points, size=0.4, sharpness=20.0, peak=60.0):
    return peak * torch.sigmoid((size - radius(points)) * sharpness)


def test_optical_depth_of_a_uniform_box_is_density_times_distance_to_its_wall():
    depth = optical_depth(torch.full((SIDE,) * 3, 3.0), EXTENT, torch.tensor([1.0, 0.0, 0.0]))
    expected = 3 * (EXTENT - grid(lambda p: p[:, 0]))
    inner = (slice(4, -4),) * 3
    assert torch.allclose(depth[inner], expected[inner], atol=0.06)


def test_optical_depth_towards_any_direction_agrees_with_a_sum_along_the_ray():
    direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    depth = optical_depth(grid(soft_ball), EXTENT, direction)
    for i, j, k in ((24, 24, 24), (20, 30, 24), (35, 24, 20)):
        start = grid_points(SIDE - 1, EXTENT).view(SIDE, SIDE, SIDE, 3)[i, j, k]
        distance = torch.linspace(0, 1.2, 2000)
        along = soft_ball(start + distance[:, None] * direction)
        assert depth[i, j, k].item() == pytest.approx(float(torch.trapezoid(along, distance)), rel=0.05)


def test_directions_are_spread_evenly_above_their_lowest_elevation():
    found = spread_directions(400, lowest=-30)
    assert torch.allclose(found.norm(dim=1), torch.ones(400))
    assert found[:, 2].min() > -0.5 and found[:, 2].max() > 0.99
    assert torch.allclose(found.mean(0), torch.tensor([0.0, 0.0, 0.25]), atol=0.01)
    nearest = (found @ found.T).fill_diagonal_(-1).amax(1).acos()
    assert nearest.min() > 0.6 * nearest.mean()


def test_a_hollow_shell_is_solid_by_its_optical_depth_and_fog_is_not():
    def shell(points):
        return 60 * torch.exp(-(((radius(points) - 0.35) / 0.04) ** 2)) + 0.2

    depth = least_optical_depth(grid(shell), EXTENT, spread_directions(24))
    density = grid(shell)
    middle = SIDE // 2
    assert density[middle, middle, middle] < 1 and depth[middle, middle, middle] > 2
    fog = grid(radius) > 0.5
    assert depth[fog].max() < 0.1


def test_hollows_are_filled_and_openings_are_not():
    sphere = 0.4 - grid(radius)
    hollow = torch.minimum(sphere, grid(radius) - 0.2)
    filled = fill_hollows(hollow)
    assert (filled > 0).sum() == (sphere > 0).sum()
    assert torch.equal(filled[sphere <= 0], hollow[sphere <= 0])
    tunnel = torch.minimum(hollow, grid(lambda p: p[:, :2].norm(dim=-1)) - 0.06)
    assert torch.equal(fill_hollows(tunnel), tunnel)


def test_small_parts_are_dropped_and_large_parts_are_kept():
    two = torch.maximum(0.2 - grid(lambda p: radius(p + 0.2)), 0.1 - grid(lambda p: radius(p - 0.3)))
    fraction = 0.1**3 / 0.2**3
    assert torch.equal(drop_floaters(two, fraction * 0.5), two)
    assert not (drop_floaters(two, fraction * 2)[SIDE // 2 :, SIDE // 2 :, SIDE // 2 :] > 0).any()


def test_the_threshold_that_matches_the_images_is_found():
    """A soft ball that has radius 0.4 in its images is meshed at radius 0.4, at whichever density that is."""
    views = orbit(4, elevation=20, distance=1.6, fov=45)
    truth = TetrahedralSurface(32, 0.6)
    with torch.no_grad():
        truth.sdf.copy_(0.4 - truth.points.norm(dim=-1))
        opacity = truth.render(views, 64).opacity
    values = values_on_grid(soft_ball, 32, 0.6)
    found = matching_threshold(values, DENSITIES, opacity, views, 32, 0.6)
    assert 20 < found < 45  # 30 at radius 0.4, and candidates are a factor 1.41 apart
    size = TetrahedralSurface.from_values(values, found, 32, 0.6).extract()[0].norm(dim=-1).mean()
    assert abs(float(size.detach()) - 0.4) < 0.02


class Shell(RadianceField):
    """Field whose density is a hollow shell of radius .35."""

    def forward(self, x, noise=None):
        return 80 * torch.exp(-(((radius(x) - 0.35) / 0.04) ** 2)), torch.full_like(x, 0.5)


@pytest.fixture
def shell():
    field = Shell(FieldConfig(levels=1, max_resolution=16, hidden_width=4, samples_per_ray=128), torch.Generator())
    field.update_occupancy(0)
    return field


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (None, 0.419),  # at this distance from the centre, half of the light passes the shell
        (40.0, 0.383),  # the shell's density is 40
    ],
)
def test_the_surface_of_a_hollow_shell_is_a_solid_ball(shell, threshold, expected):
    config = GeometryConfig(grid_resolution=32, density_threshold=threshold)
    surface = extract_surface(shell, config)
    vertices, faces = surface.extract()
    a, b, c = vertices.detach()[faces].unbind(1)
    volume = float((a * torch.linalg.cross(b, c)).sum() / 6)
    assert volume == pytest.approx(4 / 3 * math.pi * expected**3, rel=0.06)
    inner = vertices.norm(dim=-1).min()
    assert inner > 0.33, "the hollow has a surface of its own"


def test_a_field_without_a_finite_density_names_the_cause(shell, monkeypatch):
    monkeypatch.setattr(shell, "forward", lambda x, noise=None: (x[:, 0] * torch.nan, x))
    with pytest.raises(extraction.EmptyMesh, match="not a number"):
        extract_surface(shell, GeometryConfig(grid_resolution=16, density_threshold=None))
