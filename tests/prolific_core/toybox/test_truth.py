"""Metrics against the truth: the truth itself has the ratios 1 and the distance 0, and mistakes show."""

import pytest
import torch

from prolific_core import cameras
from prolific_core.toybox.evaluation import ground_truth as truth

ORBIT = cameras.orbit(8, elevation=15, distance=1.4, fov=45)


@pytest.fixture(scope="module")
def mugs():
    return truth.true_views("a red mug", ORBIT, count=6)


def test_true_views_are_the_worlds(mugs):
    assert mugs.rgb.shape == (48, 3, 64, 64) and mugs.opacity.shape == (48, 1, 64, 64)
    outside = mugs.opacity[:, 0] < 0.01
    assert (mugs.rgb.permute(0, 2, 3, 1)[outside] > 0.99).all()
    inside = mugs.rgb.permute(0, 2, 3, 1)[mugs.opacity[:, 0] > 0.99]
    assert (inside[:, 0] > inside[:, 1] + 0.1).float().mean() > 0.9
    assert truth.true_views("a zebra", ORBIT) is None


def test_the_truth_is_near_itself_and_other_objects_are_not(mugs):
    halves = [truth.Views(mugs.rgb[k::2], mugs.opacity[k::2]) for k in (0, 1)]
    same = truth.against_truth(*halves)
    assert abs(same["occupied_ratio"] - 1) < 0.15 and abs(same["saturation_ratio"] - 1) < 0.05
    cubes = truth.true_views("a blue cube", ORBIT, count=3)
    assert truth.against_truth(cubes, mugs)["kernel_distance"] > 5 * abs(same["kernel_distance"])


def test_a_true_object_has_no_excess(mugs):
    own = truth.own_distance("a red mug", ORBIT, mugs, count=9)
    singles = truth.true_views("a red mug", ORBIT, 9, seed=1)
    excess = [
        truth.against_truth(truth.Views(rgb, opacity), mugs, own)["kernel_distance_excess"]
        for rgb, opacity in zip(singles.rgb.split(8), singles.opacity.split(8), strict=True)
    ]
    # On some processors, the order of a convolution's sums in float32 depends on the number of images.
    assert sorted(excess)[4] == pytest.approx(0, abs=1e-6)
    assert not torch.equal(singles.rgb[:8], mugs.rgb[:8])  # a true object is not compared with itself
    cubes = truth.true_views("a blue cube", ORBIT, count=1)
    assert truth.against_truth(cubes, mugs, own)["kernel_distance_excess"] > 3 * max(excess)


def test_what_is_wrong_shows(mugs):
    fat = torch.nn.functional.interpolate(mugs.opacity[:, :, 16:48, 16:48], scale_factor=2)
    assert truth.against_truth(truth.Views(mugs.rgb, fat), mugs)["occupied_ratio"] > 1.4
    grey = truth.Views(mugs.rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1), mugs.opacity)
    assert truth.against_truth(grey, mugs)["saturation_ratio"] < 0.01


def test_one_front_is_one_and_a_janus_has_two():
    assert truth.runs([False] * 8) == 0 and truth.runs([True] * 8) == 1
    assert truth.runs([True, False, False, False, False, False, True, True]) == 1
    assert truth.runs([True, False, False, False, True, False, False, False]) == 2
    house = truth.true_views("a yellow house", ORBIT, count=1).rgb
    assert truth.fronts("a yellow house", house) == {"fronts": 1}
    janus = torch.cat([house[:4], house[:4]])
    assert truth.fronts("a yellow house", janus) == {"fronts": 2}
    assert truth.fronts("a blue ball", house) == {}


def test_layers_show_what_a_render_has():
    from prolific_core.render.result import Render
    from prolific_core.visualisation import layers

    opacity = torch.zeros(1, 1, 2, 2)
    opacity[..., 0] = 1
    depth = torch.tensor([[1.0, 0], [3.0, 0]])[None, None]
    image = layers(Render(rgb=torch.full((1, 3, 2, 2), 0.25), opacity=opacity, depth=depth))
    assert image.shape == (1, 3, 6, 2)
    assert (image[:, :, :2] == 0.25).all() and (image[:, 0, 2:4] == opacity[:, 0]).all()
    torch.testing.assert_close(image[0, 0, 4:], torch.tensor([[1.0, 0], [0.1, 0]]))  # near is bright, nothing is black
    assert layers(Render(rgb=torch.ones(1, 3, 2, 2), opacity=opacity)).shape == (1, 3, 4, 2)
