"""Cameras: handedness, sampled ranges, rays, and the words for view-dependent prompting."""

import math

import pytest
import torch

from prolific_core import cameras
from prolific_core.config import CameraConfig
from prolific_core.seeding import generator


def test_matrices_are_rotations_and_look_at_the_origin():
    views = cameras.sample(500, CameraConfig(elevation=(-90, 90)), generator(0, "cameras"))
    rotation = views.c2w[:, :3, :3]
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(500))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(500, 3, 3), atol=1e-5, rtol=0)
    position = views.c2w[:, :3, 3]
    torch.testing.assert_close(-rotation[:, :, 2], -position / position.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)


def test_front_camera_sees_y_to_the_right_and_z_up():
    view = cameras.orbit(4, elevation=0, distance=2, fov=60)
    torch.testing.assert_close(view.c2w[0, :3, 3], torch.tensor([2.0, 0, 0]))
    torch.testing.assert_close(view.c2w[0, :3, 0], torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(view.c2w[0, :3, 1], torch.tensor([0.0, 0, 1]))
    # Azimuth grows counter-clockwise from above: the second of four looks from +y.
    torch.testing.assert_close(view.c2w[1, :3, 3], torch.tensor([0.0, 2, 0]), atol=1e-6, rtol=0)


def test_rays_hit_the_frustum():
    view = cameras.orbit(1, elevation=0, distance=2, fov=60)
    origins, directions = view.rays(64)
    assert origins.shape == directions.shape == (1, 64, 64, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 64, 64))
    hit = origins + directions * (2 / -directions[..., :1])  # the plane x = 0
    half = 2 * math.tan(math.radians(30))
    torch.testing.assert_close(hit[0, 0, :, 2], torch.full((64,), half * 63 / 64))  # top row, up
    torch.testing.assert_close(hit[0, :, -1, 1], torch.full((64,), half * 63 / 64))  # right column


def test_sampled_ranges():
    config = CameraConfig(distance=(1.0, 1.5), fov=(40, 70), elevation=(-30, 0), uniform_probability=0.5)
    views = cameras.sample(20_000, config, generator(1, "cameras"))
    distance = views.c2w[:, :3, 3].norm(dim=-1)
    assert 0.999 <= distance.min() < 1.01 and 1.49 < distance.max() <= 1.501
    above = (views.elevation > 0).float().mean()
    assert abs(above - 0.5) < 0.02
    # Uniform on a hemisphere: the height is uniform, so half of it is above 30 degrees.
    assert abs((views.elevation > math.radians(30)).float().mean() - 0.25) < 0.02


@pytest.mark.parametrize(
    "azimuth, elevation, words",
    [
        (0, 0, "front view"),
        (29, 0, "front view"),
        (-29, 59, "front view"),
        (31, 0, "side view"),
        (149, 0, "side view"),
        (151, 0, "back view"),
        (-179, 0, "back view"),
        (270, 0, "side view"),
        (0, 61, "overhead view"),
        (180, 61, "overhead view"),
    ],
)
def test_view_prompts(azimuth, elevation, words):
    angle = [torch.tensor([math.radians(x)]) for x in (azimuth, elevation)]
    assert cameras.view_prompts(cameras.from_angles(*angle, torch.ones(1), torch.ones(1))) == [words]


def test_a_panorama_goes_all_around_with_the_front_in_the_middle():
    origins, directions = cameras.panorama(4, 8)
    assert origins.shape == directions.shape == (1, 4, 8, 3) and not origins.any()
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 4, 8))
    middle = directions[0, :, 3:5].mean((0, 1))
    torch.testing.assert_close(middle / middle.norm(), torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    assert directions[0, 0, :, 2].min() > 0 > directions[0, -1, :, 2].max()  # the top is up
    assert directions[0, 1, 2, 1] > 0.5 and directions[0, 1, 5, 1] < -0.5  # +y is to the left of +x


def test_around_looks_outwards_and_turns_to_the_right():
    views = cameras.around(4, fov=70)
    look = -views.c2w[:, :3, 2]
    torch.testing.assert_close(look, torch.tensor([[-1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, -1, 0]]), atol=1e-5, rtol=0)
    assert views.c2w[:, :3, 3].norm(dim=-1).max() < 0.01


def test_the_cameras_of_an_orbit_are_evenly_spaced_on_one_circle():
    plain, orbit = (CameraConfig(orbit=orbit) for orbit in (False, True))
    drawn, made = (cameras.sample(4, config, generator(3, "cameras")) for config in (plain, orbit))
    assert torch.equal(drawn[0].c2w, made[0].c2w) and torch.equal(drawn[0].fov, made[0].fov)
    steps = torch.remainder(made.azimuth.diff(), 2 * math.pi)
    torch.testing.assert_close(steps, torch.full((3,), math.pi / 2))
    assert (made.azimuth.abs() <= math.pi).all()
    for values in (made.elevation, made.fov, made.c2w[:, :3, 3].norm(dim=-1)):
        torch.testing.assert_close(values, values[:1].expand(4))
    assert drawn.elevation.std() > 0.01
