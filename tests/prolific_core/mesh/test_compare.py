"""Winding numbers, volume IoU and Chamfer distance against known values."""

import math

import pytest
import torch

from prolific_core.mesh.compare import Solid, chamfer_distance, volume_iou
from prolific_core.mesh.inside import is_inside, winding_reference

trimesh = pytest.importorskip("trimesh")


def box(*extents, centre=(0.0, 0.0, 0.0)) -> Solid:
    mesh = trimesh.creation.box(extents)
    return Solid(torch.tensor(mesh.vertices + centre, dtype=torch.float32), torch.tensor(mesh.faces))


def joined(*solids: Solid) -> Solid:
    offsets = torch.tensor([0, *(len(solid.vertices) for solid in solids)]).cumsum(0)
    faces = [solid.faces + offset for solid, offset in zip(solids, offsets)]
    return Solid(torch.cat([solid.vertices for solid in solids]), torch.cat(faces))


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_winding_numbers_separate_inside_from_outside():
    solid = box(1, 1, 1)
    corners = solid.vertices[solid.faces]
    points = torch.tensor([[0.0, 0, 0], [0.4, -0.4, 0.4], [0.6, 0, 0], [2.0, 2, 2]])
    assert torch.allclose(winding_reference(points, corners), torch.tensor([1.0, 1, 0, 0]), atol=1e-5)
    twice = torch.cat([corners, corners * 0.9])  # a point inside two overlapping parts counts twice
    assert winding_reference(points[:1], twice).item() == pytest.approx(2, abs=1e-5)


def test_the_kernel_agrees_with_the_reference_also_for_parts_that_overlap_or_touch():
    ball = trimesh.creation.icosphere(2, radius=0.3)
    ball = Solid(torch.tensor(ball.vertices, dtype=torch.float32) + 0.2, torch.tensor(ball.faces))
    # The second box stands on the first, and their common faces coincide. The ball overlaps with both.
    solid = joined(box(0.8, 0.8, 0.4, centre=(0, 0, -0.2)), box(0.8, 0.8, 0.4, centre=(0, 0, 0.2)), ball)
    points = torch.rand(5000, 3, generator=draw()) * 1.4 - 0.7
    expected = winding_reference(points, solid.vertices[solid.faces]) > 0.5
    assert 0.1 < expected.float().mean() < 0.8
    assert torch.equal(is_inside(points, solid.vertices, solid.faces), expected)


def test_iou_of_shifted_boxes():
    """Boxes of side 1 that are shifted by 1/4 share 3/4 of their volume, over 5/4 for both."""
    a, b = box(1, 1, 1), box(1, 1, 1, centre=(0.25, 0, 0))
    assert volume_iou(a, b, generator=draw()) == pytest.approx(0.6, abs=0.005)
    assert volume_iou(a, a, generator=draw()) == 1
    assert volume_iou(a, box(0.5, 1, 1), generator=draw()) == pytest.approx(0.5, abs=0.005)
    assert volume_iou(a, box(1, 1, 1, centre=(3, 0, 0)), generator=draw()) == 0


def test_faces_inside_other_parts_are_not_on_the_outer_surface():
    solid = joined(box(1, 1, 1, centre=(0, 0, -0.5)), box(1, 1, 1, centre=(0, 0, 0.5)))
    points = solid.surface(20_000, draw())
    assert len(points) == pytest.approx(20_000 * 10 / 12, rel=0.02)
    inner = (points[:, 2].abs() < 1e-3) & (points[:, :2].abs().amax(1) < 0.49)
    assert not inner.any()
    assert solid.size() == pytest.approx(2)


def test_chamfer_distance_of_concentric_spheres():
    """Every point of a sphere of radius .5 is .1 from one of radius .4, and the samples are dense."""
    direction = torch.nn.functional.normalize(torch.randn(40_000, 3, generator=draw()), dim=1)
    small, large = direction[:20_000] * 0.4, direction[20_000:] * 0.5
    assert chamfer_distance(small, large) == pytest.approx(0.1, abs=0.001)
    assert chamfer_distance(large, small) == chamfer_distance(small, large)
    spacing = 0.5 * math.sqrt(4 * math.pi * 0.25 / 10_000)  # mean distance to the nearest of many random points
    assert chamfer_distance(large[::2], large[1::2]) == pytest.approx(spacing, rel=0.1)
