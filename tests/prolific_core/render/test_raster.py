"""Mesh visibility, interpolation and antialiased silhouettes, compared with known geometry."""

import math

import pytest
import torch

from prolific_core.cameras import from_angles, orbit
from prolific_core.render import backends
from prolific_core.render.mesh.antialias import Edges, antialias
from prolific_core.render.mesh.raster import (
    Pinhole,
    Visibility,
    clip_coordinates,
    interpolate,
    trace,
    vertex_normals,
)
from prolific_core.render.mesh.shading import render_mesh

BACKENDS = backends.available("raster")


def sphere(subdivisions=3, radius=0.5):
    trimesh = pytest.importorskip("trimesh")
    mesh = trimesh.creation.icosphere(subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def square(half=0.4, x=0.0):
    """Return two triangles in a plane of constant x that face the camera on +x."""
    corners = torch.tensor([[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]])
    return corners, torch.tensor([[0, 1, 2], [0, 2, 3]])


def front(views=1, distance=2.0, fov=45.0):
    return orbit(views, elevation=0.0, distance=distance, fov=fov)


def visible_faces(vertices, faces, origins, directions, backend="auto"):
    return Visibility(vertices, faces, backend)(origins, directions)


def coverage(vertices, faces, cameras, resolution):
    rays = cameras.rays(resolution)
    hits = trace(Visibility(vertices, faces), vertices, faces, *rays)
    image = hits.image(torch.ones(len(hits.pixel), 1))
    return antialias(image, hits, vertices, faces, *rays), image


def exact_coverage(vertices, faces, cameras, resolution, factor=16):
    """Return the supersampled coverage (B, 1, H, W) without antialiasing."""
    seen = visible_faces(vertices, faces, *cameras.rays(resolution * factor)) >= 0
    return torch.nn.functional.avg_pool2d(seen[:, None].float(), factor)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def test_visibility_equals_the_reference(backend):
    vertices, faces = sphere(3)
    rays = orbit(2, elevation=20.0, distance=1.5, fov=45.0).rays(24)
    ours, reference = (visible_faces(vertices, faces, *rays, backend=name) for name in (backend, "torch"))
    assert torch.equal(ours >= 0, reference >= 0)
    assert 0.1 < (reference >= 0).float().mean() < 0.9
    # On an edge of two faces either is right, and the point is the same.
    assert (ours != reference).sum() <= 4
    distances = [
        trace(Visibility(vertices, faces, name), vertices, faces, *rays).distance for name in (backend, "torch")
    ]
    assert torch.allclose(*distances, atol=1e-5)


def test_a_face_seen_from_behind_and_one_behind_the_camera():
    vertices, faces = square()
    rays = front().rays(8)
    assert (visible_faces(vertices, faces.flip(1), *rays) >= 0).any(), "visibility has no culling"
    behind = vertices + torch.tensor([4.0, 0.0, 0.0])
    for backend in BACKENDS:
        assert (visible_faces(behind, faces, *rays, backend=backend) == -1).all()


def test_no_faces_give_an_empty_image():
    vertices, faces = torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)
    image = render_mesh(Visibility(vertices, faces), vertices, faces, front(2), 8, None)
    assert torch.equal(image.rgb, torch.full((2, 3, 8, 8), 0.5))
    assert image.opacity.abs().max() == 0 and image.depth.abs().max() == 0


def test_hits_match_the_sphere():
    vertices, faces = sphere(5)
    rays = front(2, distance=1.6).rays(33)
    hits = trace(Visibility(vertices, faces), vertices, faces, *rays)
    points = interpolate(vertices, faces, hits.face, hits.barycentrics)
    assert (points.norm(dim=-1) - 0.5).abs().max() < 1e-3
    assert torch.allclose(hits.barycentrics.sum(-1), torch.ones(len(points)), atol=1e-5)
    normals = interpolate(vertex_normals(vertices, faces), faces, hits.face, hits.barycentrics)
    assert (normals - points / 0.5).abs().max() < 0.01
    # The middle ray meets the sphere at distance minus radius.
    depth = hits.image(hits.distance[:, None])
    assert depth[0, 0, 16, 16].item() == pytest.approx(1.1, abs=1e-3)
    # The sphere is centred and z is up in an image from the front, so n_z > 0 in its upper half.
    shown = hits.image((normals + 1) / 2, 0.5)
    assert shown[0, 2, 12, 16] > 0.6 and shown[0, 2, 20, 16] < 0.4
    assert shown[0, 1, 16, 20] > 0.6, "from +x with z up, +y is on the right"


def test_interpolation_gradient_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    vertices, faces = square()
    vertices = vertices + 0.05 * torch.randn(vertices.shape, generator=generator)
    rays = front().rays(6)
    visibility = Visibility(vertices, faces)

    def value(v):
        hits = trace(visibility, v, faces, *rays)
        return (hits.distance * hits.barycentrics[:, 0]).sum()

    moving = vertices.double().requires_grad_()
    rays = tuple(r.double() for r in rays)
    (gradient,) = torch.autograd.grad(value(moving), moving)
    for i, k in ((0, 0), (1, 1), (2, 2), (3, 0)):
        step = torch.zeros_like(moving)
        step[i, k] = 1e-6
        with torch.no_grad():
            numeric = (value(moving + step) - value(moving - step)) / 2e-6
        assert gradient[i, k].item() == pytest.approx(numeric.item(), rel=1e-4, abs=1e-6)


def test_projection_inverts_the_rays():
    cameras = orbit(3, elevation=35.0, distance=1.4, fov=60.0)
    origins, directions = cameras.rays(10)
    camera = Pinhole.from_rays(origins, directions)
    points = origins[1] + 1.3 * directions[1]
    screen = camera.project(points.view(-1, 3))[1].view(10, 10, 3)
    centres = torch.arange(10) + 0.5
    assert torch.allclose(screen[..., 0], centres.expand(10, 10), atol=1e-4)
    assert torch.allclose(screen[..., 1], centres[:, None].expand(10, 10), atol=1e-4)
    # nvdiffrast receives coordinates within -1..1 after the division, with row 0 at y = -1.
    clip = clip_coordinates(screen.view(1, -1, 3), 10, 10)[0]
    ndc = clip[:, :3] / clip[:, 3:]
    assert ndc.abs().max() < 1
    assert torch.allclose(ndc[:, 1].view(10, 10)[:, 0], (torch.arange(10) + 0.5) / 5 - 1, atol=1e-4)
    with pytest.raises(ValueError, match="at least 2 x 2"):
        Pinhole.from_rays(*cameras.rays(1))


def test_antialiasing_changes_only_silhouettes_and_keeps_the_range():
    vertices, faces = sphere(3)
    smooth, sharp = coverage(vertices, faces, front(2), 32)
    assert smooth.min() >= 0 and smooth.max() <= 1
    same = sharp.clone()
    inner = -torch.nn.functional.max_pool2d(-sharp, 3, 1, 1)
    outer = torch.nn.functional.max_pool2d(sharp, 3, 1, 1)
    flat = inner == outer
    assert torch.equal(smooth[flat], same[flat])
    assert (smooth != sharp).float().mean() > 0.02
    exact = exact_coverage(vertices, faces, front(2), 32)
    before, after = ((x - exact).abs().mean().item() for x in (sharp, smooth))
    assert after < 0.35 * before


def test_an_axis_aligned_edge_has_its_exact_coverage():
    # A 45 degree view from distance 2: 32 pixels span 2 * 2 * tan(22.5 deg).
    half = 0.4
    vertices, faces = square(half)
    smooth, _ = coverage(vertices, faces, front(), 32)
    pixels = 2 * half / (4 * math.tan(math.radians(22.5))) * 32
    assert smooth[0, 0, 16].sum().item() == pytest.approx(pixels, abs=1e-3)
    assert smooth[0, 0, :, 16].sum().item() == pytest.approx(pixels, abs=1e-3)


@pytest.mark.parametrize("name", ["sphere", "fine sphere", "square", "turned square"])
@pytest.mark.parametrize("resolution", [24, 48])
def test_gradient_of_area_with_scale(name, resolution):
    vertices, faces = {"sphere": sphere(2), "fine sphere": sphere(5)}.get(name, square())
    if name == "turned square":
        angle = math.radians(30)
        turn = torch.tensor([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
        vertices = vertices @ turn.T
    cameras = front()
    scale = torch.tensor(1.0, requires_grad=True)
    smooth, _ = coverage(vertices * scale, faces, cameras, resolution)
    smooth.sum().backward()
    low, high = (exact_coverage(vertices * s, faces, cameras, resolution).sum() for s in (0.95, 1.05))
    assert scale.grad.item() == pytest.approx(((high - low) / 0.1).item(), rel=0.1)


def test_gradient_of_a_weighted_image_with_translation():
    """Check the derivative of the integral over the shape of a weight that grows across the image."""
    vertices, faces = sphere(3, radius=0.4)
    cameras = front()
    weight = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    for axis, image_axis in ((1, 3), (2, 2)):
        ramp = weight if image_axis == 3 else weight.transpose(2, 3).flip(2)
        shift = torch.zeros(3)
        shift[axis] = 0.05
        move = torch.zeros(3, requires_grad=True)
        smooth, _ = coverage(vertices + move, faces, cameras, 32)
        (smooth * ramp).sum().backward()
        low, high = ((exact_coverage(vertices + s, faces, cameras, 32) * ramp).sum() for s in (-shift, shift))
        numeric = (high - low) / 0.1
        assert move.grad[axis].item() == pytest.approx(numeric.item(), rel=0.2)
        assert move.grad[axis] > 0


def test_only_the_visible_silhouette_has_a_gradient():
    """Check that the outline of a square in front of a larger one has a gradient, and a hidden square has none."""
    near, faces = square(0.2, x=0.3)
    far, _ = square(0.15, x=-0.3)
    wall, _ = square(0.6, x=-0.6)
    shapes = [near.requires_grad_(), far.requires_grad_(), wall.requires_grad_()]
    vertices = torch.cat(shapes)
    faces = torch.cat([faces, faces + 4, faces + 8])
    rays = front().rays(32)
    hits = trace(Visibility(vertices, faces), vertices, faces, *rays)
    colours = torch.tensor([[1.0], [1.0], [0.5], [0.5], [0.25], [0.25]])
    image = antialias(hits.image(colours[hits.face]), hits, vertices, faces, *rays)
    image.sum().backward()
    assert near.grad[:, 1:].abs().max() > 1
    assert far.grad.abs().max() == 0
    # Moving the right edge of the near square outwards replaces wall by square.
    assert near.grad[1, 1] > 0 and near.grad[0, 1] < 0 and near.grad[2, 2] > 0


def test_translation_converges_to_a_target_silhouette():
    triangle = torch.tensor([[0.0, -0.4, -0.3], [0.0, 0.4, -0.3], [0.0, 0.0, 0.4]])
    faces = torch.tensor([[0, 1, 2]])
    cameras = front()
    wanted = torch.tensor([0.0, 0.17, -0.12])
    target = exact_coverage(triangle + wanted, faces, cameras, 24)
    move = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([move], lr=0.02)
    for _ in range(40):
        smooth, _ = coverage(triangle + move, faces, cameras, 24)
        optimizer.zero_grad()
        (smooth - target).square().sum().backward()
        move.grad[0] = 0  # motion along the viewing axis changes only the size
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.92
    assert (move - wanted)[1:].abs().max() < 0.01


def test_gradients_are_repeatable_to_the_bit():
    vertices, faces = sphere(4)

    def once():
        moving = vertices.clone().requires_grad_()
        image = render_mesh(Visibility(moving, faces), moving, faces, front(2), 32, None)
        (image.rgb.square().sum() + image.opacity.sum()).backward()
        return image.rgb.detach(), moving.grad

    for first, second in zip(once(), once()):
        assert torch.equal(first, second)
        assert torch.isfinite(first).all()


def test_edges_of_a_tetrahedron():
    edges = Edges.of(torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]))
    assert edges.ends.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert torch.bincount(edges.side_edge).tolist() == [2] * 6
    for edge, vertex in zip(edges.side_edge.tolist(), edges.side_vertex.tolist()):
        assert vertex not in edges.ends[edge].tolist()


def test_supersampling_and_backgrounds():
    vertices, faces = square()
    colour = torch.tensor([0.2, 0.4, 0.6])
    backdrop = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    image = render_mesh(
        Visibility(vertices, faces),
        vertices,
        faces,
        front(1)[torch.zeros(2, dtype=torch.int64)],
        16,
        lambda hits, points, normals: colour.expand(len(points), 3),
        background=backdrop,
        supersampling=2,
    )
    assert torch.allclose(image.rgb[:, :, 0, 0], backdrop)
    assert torch.allclose(image.rgb[:, :, 8, 8], colour.expand(2, 3))
    assert image.depth[0, 0, 8, 8].item() == pytest.approx(2.0, abs=0.02)
    assert image.rgb.shape == (2, 3, 16, 16) and image.depth[0, 0, 0, 0] == 0
    blend = image.opacity * colour.view(3, 1, 1) + (1 - image.opacity) * backdrop[:, :, None, None]
    assert torch.allclose(image.rgb, blend, atol=1e-5)


def test_rendering_from_straight_above():
    cameras = from_angles(torch.zeros(1), torch.tensor([math.pi / 2]), torch.tensor([1.5]), torch.tensor([0.8]))
    vertices, faces = sphere(2, 0.3)
    smooth, _ = coverage(vertices, faces, cameras, 16)
    exact = exact_coverage(vertices, faces, cameras, 16)
    assert smooth.sum().item() == pytest.approx(exact.sum().item(), rel=0.02)


def test_calls_to_nvdiffrast_follow_its_manual(monkeypatch):
    """Compare the adapter with a substitute that rasterises clip coordinates as nvdiffrast's manual specifies."""
    import sys
    import types

    def rasterize(context, pos, tri, resolution, ranges=None, grad_db=True):
        assert pos.dtype == torch.float32 and tri.dtype == torch.int32 and pos.is_contiguous()
        height, width = resolution
        ndc = pos[..., :3] / pos[..., 3:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.stack([(x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1], -1).float()
        out = torch.zeros(len(pos), height, width, 4)
        for view, points in enumerate(ndc):
            nearest = torch.full((height, width), torch.inf)
            for index, (a, b, c) in enumerate(points[tri.long()]):
                sides = [
                    (q[0] - p[0]) * (centres[..., 1] - p[1]) - (q[1] - p[1]) * (centres[..., 0] - p[0])
                    for p, q in ((a, b), (b, c), (c, a))
                ]
                inside = (torch.stack(sides) >= 0).all(0) | (torch.stack(sides) <= 0).all(0)
                assert -1 < c[2] < 1
                closer = inside & (c[2] < nearest)
                nearest[closer] = c[2]
                out[view][..., 3][closer] = index + 1
        return out, torch.zeros_like(out)

    fake = types.ModuleType("nvdiffrast.torch")
    fake.rasterize, fake.RasterizeCudaContext = rasterize, lambda device=None: object()
    package = types.ModuleType("nvdiffrast")
    package.torch = fake
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", fake)

    near, faces = square(0.2, x=0.3)
    far, _ = square(0.5, x=-0.3)
    vertices, faces = torch.cat([near + torch.tensor([0.0, 0.1, 0.15]), far]), torch.cat([faces, faces + 4])
    rays = orbit(1, elevation=15.0, distance=2.0, fov=45.0).rays(21)
    visibility = Visibility(vertices, faces, "torch")
    expected = visibility(*rays)
    visibility.backend = "nvdiffrast"
    found = visibility(*rays)
    # On the diagonal of a square either of its two faces is right.
    assert torch.equal(found // 2, expected // 2)
    assert set((expected // 2).unique().tolist()) == {-1, 0, 1}
