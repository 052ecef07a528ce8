"""Marching tetrahedra, the surface scene and its losses are compared with known shapes."""

import math

import pytest
import torch

from prolific_core.cameras import orbit
from prolific_core.config import GeometryConfig
from prolific_core.mesh.extract import EmptyMesh, marching_tetrahedra
from prolific_core.mesh.losses import (
    face_pairs,
    laplacian_smoothness,
    normal_consistency,
)
from prolific_core.mesh.tetrahedra import boundary_mask, grid_points, sdf_sign_loss
from prolific_core.render.mesh.antialias import Edges
from prolific_core.render.mesh.raster import face_normals
from prolific_core.scenes.measured_extent import measured_extent
from prolific_core.scenes.surface import (
    TetrahedralSurface,
    usable_threshold,
)


def ball(points, radius=0.4, centre=(0.0, 0.0, 0.0)):
    return radius - (points - torch.tensor(centre)).norm(dim=-1)


def ring(points, large=0.35, small=0.12):
    return small - ((points[:, :2].norm(dim=-1) - large) ** 2 + points[:, 2] ** 2).sqrt()


def measure(vertices, faces):
    """Return volume, area and Euler characteristic; check that each edge has two faces, in opposite directions."""
    a, b, c = vertices[faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    area = face_normals(vertices, faces).norm(dim=-1).sum() / 2
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = directed[:, 0] * len(vertices) + directed[:, 1]
    assert len(directed.unique()) == len(directed), "an edge runs twice in one direction"
    edges = Edges.of(faces)
    assert (torch.bincount(edges.side_edge) == 2).all(), "an edge without two faces"
    assert len(faces.unique()) == len(vertices)
    return volume.item(), area.item(), len(vertices) - len(edges.ends) + len(faces)


def test_sphere():
    points = grid_points(32, 0.6)
    vertices, faces = marching_tetrahedra(points, ball(points), 32)
    volume, area, euler = measure(vertices, faces)
    assert volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.01)  # positive: outward
    assert area == pytest.approx(4 * math.pi * 0.4**2, rel=0.01)
    assert euler == 2


def test_torus_and_two_pieces():
    points = grid_points(32, 0.6)
    volume, area, euler = measure(*marching_tetrahedra(points, ring(points), 32))
    assert volume == pytest.approx(2 * math.pi**2 * 0.35 * 0.12**2, rel=0.02)
    assert area == pytest.approx(4 * math.pi**2 * 0.35 * 0.12, rel=0.02)
    assert euler == 0
    two = torch.maximum(ball(points, 0.15, (0.3, 0, 0)), ball(points, 0.15, (-0.3, 0, 0)))
    assert measure(*marching_tetrahedra(points, two, 32))[2] == 4


def test_every_way_of_cutting_is_closed_and_faces_outward():
    """Random signs cover every case of the table."""
    generator = torch.Generator().manual_seed(3)
    points = grid_points(6, 1.0)
    for _ in range(5):
        sdf = torch.randn(len(points), generator=generator)
        sdf = torch.where(boundary_mask(6), -sdf.abs(), sdf)
        vertices, faces = marching_tetrahedra(points, sdf, 6)
        volume, _, _ = measure(vertices, faces)
        assert volume > 0
        # The volume of the parts is bounded by that of the inner points' cells.
        assert volume < (sdf > 0).sum() * (2 / 6) ** 3 * 2


def test_values_of_zero_stay_finite_and_closed():
    points = grid_points(8, 1.0)
    sdf = ball(points, 0.5).mul(8).round() / 8  # many exact zeros
    vertices, faces = marching_tetrahedra(points, sdf.requires_grad_(), 8)
    assert torch.isfinite(vertices).all()
    assert measure(vertices.detach(), faces)[0] > 0
    vertices.sum().backward()
    assert torch.isfinite(sdf.grad).all()


def test_positions_are_differentiable():
    """Adding d to the signed distance of a plane moves it by d."""
    points = grid_points(8, 1.0)
    height = torch.tensor(0.07, requires_grad=True)
    vertices, _ = marching_tetrahedra(points, height - points[:, 2], 8)
    assert torch.allclose(vertices[:, 2], height.detach().expand(len(vertices)), atol=1e-6)
    (gradient,) = torch.autograd.grad(vertices[:, 2].mean(), height)
    assert gradient.item() == pytest.approx(1.0, abs=1e-4)


def test_resolution_128():
    points = grid_points(128, 0.6)
    vertices, faces = marching_tetrahedra(points, ball(points), 128)
    assert len(faces) > 200_000
    a, b, c = vertices[faces].unbind(1)
    assert ((a * torch.linalg.cross(b, c)).sum() / 6).item() == pytest.approx(4 / 3 * math.pi * 0.064, rel=1e-3)


def plane(n=5):
    """Return a triangulated n x n grid in z = 0 with parallel diagonals."""
    x, y = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    vertices = torch.stack([x, y, torch.zeros(n, n)], -1).view(-1, 3).float()
    corner = (x * n + y)[:-1, :-1].reshape(-1)
    faces = torch.cat(
        [
            torch.stack([corner, corner + n, corner + n + 1], -1),
            torch.stack([corner, corner + n + 1, corner + 1], -1),
        ]
    )
    return vertices, faces


def test_losses_on_a_plane_a_fold_and_a_spike():
    vertices, faces = plane()
    assert normal_consistency(vertices, faces).item() == pytest.approx(0, abs=1e-6)
    assert laplacian_smoothness(vertices, faces).item() == pytest.approx(0, abs=1e-12)
    # Two faces at a right angle.
    fold = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    pair = torch.tensor([[0, 1, 2], [0, 3, 1]])
    assert face_pairs(pair).tolist() == [[0, 1]]
    assert normal_consistency(fold, pair).item() == pytest.approx(1, abs=1e-6)
    # The middle vertex up by 1: it is 1 from its ring's mean, and each of its
    # six neighbours' means rises by 1/6 (all six are inner ones in 5 x 5).
    vertices[12, 2] = 1
    assert laplacian_smoothness(vertices, faces).item() == pytest.approx((1 + 6 / 36) / 9, rel=1e-5)


def test_sign_regulariser_on_two_values():
    """One grid point inside among -1: each of its 14 edges costs softplus(1) + softplus(1)."""
    sdf = -torch.ones(5**3)
    assert sdf_sign_loss(sdf, 4).item() == 0
    sdf[62] = 1.0
    expected = 2 * math.log1p(math.exp(1.0))
    assert sdf_sign_loss(sdf, 4).item() == pytest.approx(expected, rel=1e-5)
    sdf = sdf.requires_grad_()
    sdf_sign_loss(sdf, 4).backward()
    assert sdf.grad[62] > 0, "descent takes the lone point back outside"


def density(points):
    return 40 * torch.sigmoid(60 * ball(points, 0.35))


def test_from_density_finds_the_level():
    surface = TetrahedralSurface.from_density(density, 20.0, 32, 0.6)
    assert surface.threshold == 20.0
    assert surface.sdf.abs().max() <= 1
    volume, _, euler = measure(*(x.detach() for x in surface.extract()))
    assert volume == pytest.approx(4 / 3 * math.pi * 0.35**3, rel=0.05)
    assert euler == 2


@pytest.mark.parametrize("threshold", [1e4, 1e-30])
def test_an_unusable_threshold_is_replaced(threshold):
    surface = TetrahedralSurface.from_density(density, threshold, 16, 0.6)
    assert 10 < surface.threshold < 30
    assert measure(*(x.detach() for x in surface.extract()))[2] == 2


@pytest.mark.parametrize(
    "field, cause",
    [
        (lambda p: torch.zeros(len(p)), "0 everywhere"),
        (lambda p: torch.full((len(p),), 3.0), "3 everywhere"),
        (lambda p: torch.full((len(p), 1), torch.nan), "not a number"),
    ],
)
def test_no_surface_names_the_cause(field, cause):
    with pytest.raises(ValueError, match=cause):
        TetrahedralSurface.from_density(field, 10.0, 8, 0.6)
    with pytest.raises(EmptyMesh):
        usable_threshold(field(torch.zeros(5, 3)).view(-1), 1.0)


def test_floaters_go_and_the_border_is_closed():
    def two(points):
        speck = ball(points, 0.08, (0.5, 0.5, 0.5))
        return 40 * torch.sigmoid(60 * torch.maximum(ball(points, 0.3), speck))

    kept = TetrahedralSurface.from_density(two, 20.0, 24, 0.6, component_fraction=0)
    dropped = TetrahedralSurface.from_density(two, 20.0, 24, 0.6, component_fraction=0.05)
    assert measure(*(x.detach() for x in kept.extract()))[2] == 4
    assert measure(*(x.detach() for x in dropped.extract()))[2] == 2
    # A ball larger than the grid is cut off by its walls.
    cut = TetrahedralSurface.from_density(lambda p: 40 * torch.sigmoid(60 * ball(p, 0.7)), 20.0, 16, 0.6)
    vertices, faces = (x.detach() for x in cut.extract())
    measure(vertices, faces)
    assert vertices.abs().max() <= 0.6
    with torch.no_grad():
        cut.sdf.fill_(1.0)
    measure(*(x.detach() for x in cut.extract()))


def test_render_of_a_sphere():
    surface = TetrahedralSurface(24, 0.6)  # starts as a sphere of radius 0.3
    image = surface.render(orbit(2, elevation=0.0, distance=1.5, fov=45.0), 33)
    assert image.rgb.shape == (2, 3, 33, 33) and image.opacity.shape == (2, 1, 33, 33)
    # The middle of the front view faces +x, of the back view -x.
    assert torch.allclose(image.rgb[0, :, 16, 16], torch.tensor([1.0, 0.5, 0.5]), atol=0.05)
    assert torch.allclose(image.rgb[1, :, 16, 16], torch.tensor([0.0, 0.5, 0.5]), atol=0.05)
    assert torch.allclose(image.rgb[0, :, 0, 0], torch.tensor([0.5, 0.5, 0.5]))
    assert image.depth[0, 0, 16, 16].item() == pytest.approx(1.2, abs=0.01)
    radius = 0.3 / math.sqrt(1.5**2 - 0.3**2) / math.tan(math.radians(22.5)) * 16.5
    assert image.opacity[0].sum().item() == pytest.approx(math.pi * radius**2, rel=0.02)


def test_optimising_the_opacity_grows_the_sphere():
    """Gradients reach both parameters and point the right way, with every regulariser."""
    names = ("normal_consistency", "laplacian", "sdf_regularisation")
    config = GeometryConfig(learning_rate=8e-3, opacity=2.0, **dict.fromkeys(names, 1e-3))
    surface = TetrahedralSurface(16, 0.6, train_config=config)
    optimizer = torch.optim.Adam(surface.parameter_groups())
    cameras = orbit(2, elevation=20.0, distance=1.6, fov=45.0)
    target = surface.render(cameras, 32).opacity.mean().item() * 1.3
    for _ in range(16):
        image = surface.render(cameras, 32, torch.Generator())
        losses = surface.losses(image, 0.5)
        assert losses.pop("opacity").item() == pytest.approx(2 * image.opacity.mean().item())
        loss = (image.opacity.mean() - target).square() * 100 + sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in surface.parameters())
        optimizer.step()
    assert set(losses) == set(image.losses) == set(names)
    assert not surface.render(cameras, 32).losses
    assert image.opacity.mean().item() == pytest.approx(target, rel=0.05)


def test_a_vanished_surface_is_a_clear_error():
    surface = TetrahedralSurface(8, 0.6)
    with torch.no_grad():
        surface.sdf.fill_(-1)
    with pytest.raises(EmptyMesh, match="vanished"):
        surface.render(orbit(1, elevation=0.0, distance=1.5, fov=45.0), 16)


def test_the_box_of_the_surface_is_measured():
    """The box is 0.1 larger than the object, is not enlarged by floaters, and stays in the field's box."""

    def density(points, radius=0.35):
        sphere = radius - (points - torch.tensor([0.2, 0.0, -0.1])).norm(dim=-1)
        floater = 0.05 - (points - torch.tensor([0.0, 0.9, 0.0])).norm(dim=-1)
        return 10 * torch.sigmoid(100 * torch.maximum(sphere, floater))

    def extent(function, **options):
        return measured_extent(TetrahedralSurface.from_density(function, 2.5, 40, 1.0, **options), 1.0)

    assert extent(density, component_fraction=0.0) == pytest.approx(1.0)
    assert extent(density) == pytest.approx(0.65, abs=0.05)  # to +x: 0.2 + 0.35 + 0.1
    assert extent(lambda points: density(points, 0.9)) == 1.0
