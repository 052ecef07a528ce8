"""Names of views: general, precise, and those of the camera's height."""

import math

import numpy as np
import torch

from prolific_core import cameras, view_names


def radians(*degrees):
    return [math.radians(angle) for angle in degrees]


def test_the_papers_names():
    assert [view_names.view_of(angle, 0.2) for angle in radians(0, 29, 31, -90, 149, 151, 181)] == [
        *("front", "front", "side", "side", "side", "back", "back")
    ]
    assert view_names.view_of(0.0, math.radians(61)) == "overhead"


def test_names_become_more_precise():
    names = {angle: view_names.view_names("side", math.radians(angle)) for angle in (40, 90, 140, -40, -90, 220, 270)}
    assert names[40] == ["side", "left side", "front left"]
    assert names[90] == ["side", "left side", "left profile"]
    assert names[140] == ["side", "left side", "back left"]
    assert names[-40] == ["side", "right side", "front right"]
    assert names[-90] == names[270] == ["side", "right side", "right profile"]
    assert names[220] == ["side", "right side", "back right"]
    assert view_names.view_names("front", 0.1) == ["front"] and view_names.side_of("front", 0.1) == "front"
    assert {name for found in names.values() for name in found[1:]} == set(view_names.SIDES)


def test_the_left_side_is_the_objects_own():
    """From the left of an object that faces +x, its front points to the left of the image."""
    from prolific_core.toybox.world.renderer import orbit

    azimuth = math.radians(90)
    assert view_names.side_of("side", azimuth) == "left side"
    nose = np.linalg.inv(orbit(azimuth, 0.0, 1.4)) @ [0.4, 0.0, 0.0, 1.0]
    assert nose[0] < 0 and nose[2] < 0  # to the left, before the camera


def test_heights():
    assert [view_names.height_of(angle) for angle in radians(-5, 9, 11, 34, 36, 79)] == [
        *("low", "low", "medium", "medium", "high", "high")
    ]


def test_precise_prompts_of_cameras():
    angles = torch.tensor(radians(0, 45, -90, 180)), torch.tensor(radians(0, 20, 40, 70))
    views = cameras.from_angles(*angles, torch.ones(4), torch.ones(4))
    assert cameras.precise_view_prompts(views) == [
        "front view, seen from a low angle",
        "front left view, seen from a medium angle",
        "right profile view, seen from a high angle",
        "overhead view, seen from a high angle",
    ]
