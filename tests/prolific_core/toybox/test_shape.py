"""The comparison of shapes does not depend on place, size and direction, and agrees with closed forms."""

import math

import pytest
import torch

from prolific_core.mesh.compare import Solid
from prolific_core.mesh.extract import EmptyMesh
from prolific_core.toybox.evaluation.shape import Shape, intersection_over_union, shape_metrics
from prolific_core.toybox.world import draw as world

trimesh = pytest.importorskip("trimesh")


def solid(mesh) -> Solid:
    return Solid(torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces).long())


def true_object(text: str, seed: int = 0) -> Solid:
    return solid(world.sample(text, 1, seed)[0].trimesh())


@pytest.mark.parametrize("text", ["a green car", "a blue chair"])
def test_place_size_and_direction_do_not_matter(text):
    given = true_object(text)
    yaw = torch.tensor(math.radians(40.0))
    turn = torch.tensor([[yaw.cos(), -yaw.sin(), 0.0], [yaw.sin(), yaw.cos(), 0.0], [0.0, 0.0, 1.0]])
    moved = Solid(0.3 * given.vertices @ turn.T + torch.tensor([0.2, -0.1, 0.4]), given.faces)
    found = shape_metrics(text, moved, objects=1)
    assert found["iou"] > 0.93
    assert found["chamfer"] < 0.02


def test_another_kind_of_object_is_less_similar():
    car, chair = (
        shape_metrics("a green car", true_object(text, seed=1), 8) for text in ("a green car", "a blue chair")
    )
    assert car["iou"] > 0.8 > 0.4 > chair["iou"]
    assert car["chamfer"] < 0.03 < chair["chamfer"]


def test_a_sphere_and_a_cube_overlap_as_their_closed_form_says():
    # A sphere with a radius of gyration of 1 has the radius sqrt(5/3), and such a cube has sides of length 2.
    radius = math.sqrt(5 / 3)
    cap = math.pi * (radius - 1) ** 2 * (2 * radius + 1) / 3
    sphere, both = 4 / 3 * math.pi * radius**3, 4 / 3 * math.pi * radius**3 - 6 * cap
    meshes = trimesh.creation.icosphere(subdivisions=4, radius=0.2), trimesh.creation.box((3, 3, 3))
    a, b = (Shape.of(solid(mesh)).occupied()[None] for mesh in meshes)
    assert float(intersection_over_union(a, b)) == pytest.approx(both / (sphere + 8 - both), abs=0.01)


def test_a_mesh_without_a_volume():
    flat = Solid(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(EmptyMesh, match="encloses no volume"):
        Shape.of(flat)
    assert shape_metrics("a green car", flat, 1) == {"iou": 0.0}


def test_specks_of_a_single_point_have_no_volume():
    speck = trimesh.creation.icosphere(2, 0.006)
    other = speck.copy()
    other.apply_translation((1, 1, 1))
    assert shape_metrics("a red cube", solid(trimesh.util.concatenate([speck, other])), 1) == {"iou": 0.0}


def test_a_prompt_without_known_truth_has_no_shape_metrics():
    assert shape_metrics("a corgi in a hat", true_object("a blue cube")) == {}
