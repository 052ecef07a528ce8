"""Cleaning, unwrapping, baking, writing and reading of a mesh."""

import functools
import json
import math
import struct

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from prolific_core.cameras import orbit
from prolific_core.errors import InputError
from prolific_core.mesh.bake import bake, texel_positions
from prolific_core.mesh.clean import clean, keep_large_components
from prolific_core.mesh.export import feet, load_glb, write_glb, write_obj
from prolific_core.mesh.extract import EmptyMesh, marching_tetrahedra
from prolific_core.mesh.glb import glb_bytes, read_glb, to_y_up, to_z_up
from prolific_core.mesh.tetrahedra import grid_points
from prolific_core.mesh.textured_view import TexturedView
from prolific_core.mesh.unwrap import UnwrappedMesh, unwrap
from prolific_core.scenes.textured_mesh import TexturedMesh

trimesh = pytest.importorskip("trimesh")
pymeshlab = pytest.importorskip("pymeshlab")
pytest.importorskip("xatlas")

SIZE = 256
CAMERAS = orbit(3, elevation=25.0, distance=1.6, fov=45.0)


def colour(points):
    """Return a smooth colour in [0, 1] that differs in every direction."""
    return (torch.sin(points * torch.tensor([9.0, 7.0, 8.0])) + 1) / 2


@functools.cache
def raw_mesh():
    """Extract a torus with its axis along z, and a small separate component."""
    points = grid_points(24, 0.6)
    ring = 0.13 - ((points[:, :2].norm(dim=-1) - 0.35) ** 2 + points[:, 2] ** 2).sqrt()
    speck = 0.06 - (points - 0.5).norm(dim=-1)
    vertices, faces = marching_tetrahedra(points, torch.maximum(ring, speck), 24)
    return vertices.numpy(), faces.numpy()


def make():
    vertices, faces = clean(*raw_mesh(), 2000)
    cut = unwrap(vertices, faces, SIZE)
    return (vertices, faces), cut, bake(colour, cut.vertices, cut.faces, cut.uvs, SIZE)


made = functools.cache(make)


def test_cleaning_keeps_the_shape_and_drops_the_small_component():
    vertices, faces = clean(*raw_mesh(), 2000)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert len(faces) <= 2000 < len(raw_mesh()[1])
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 0 and mesh.body_count == 1
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.35 * 0.13**2, rel=0.04)
    assert vertices.dtype == np.float32 and faces.dtype == np.int64
    both = trimesh.Trimesh(*clean(*raw_mesh(), 10**6, component_fraction=0), process=False)
    assert both.body_count == 2


def test_smoothing_flattens_noise_and_keeps_the_volume():
    ball = trimesh.creation.icosphere(4, radius=0.5)
    noise = np.random.default_rng(0).normal(0, 0.01, len(ball.vertices))[:, None]
    noisy = ball.vertices * (1 + noise)
    smooth, _ = clean(noisy, ball.faces, smoothing=10)
    radius = np.linalg.norm(smooth, axis=1)
    assert radius.std() < 0.4 * np.linalg.norm(noisy, axis=1).std()
    assert radius.mean() == pytest.approx(0.5, rel=0.01)


def test_repair_of_duplicates_and_non_manifold_edges():
    box = trimesh.creation.box()
    vertices = np.concatenate([box.vertices, box.vertices[:3] + 1e-9, [[0, 0, 3.0]]])
    # A copied face, a face without area, and a fin on an edge of the box.
    first = box.faces[0]
    extra = [first, [first[0], first[0], first[1]], [first[0], first[1], len(vertices) - 1]]
    faces = np.concatenate([box.faces, extra])
    cleaned = trimesh.Trimesh(*clean(vertices, faces), process=False)
    edges, count = np.unique(np.sort(cleaned.edges, axis=1), axis=0, return_counts=True)
    assert count.max() <= 2
    assert len(cleaned.faces) >= 12
    assert len(np.unique(cleaned.faces)) == len(cleaned.vertices)


def test_an_empty_result_raises_a_clear_error():
    nothing = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    with pytest.raises(EmptyMesh, match="no faces"):
        clean(*nothing)
    with pytest.raises(EmptyMesh, match="no faces"):
        unwrap(*nothing)
    with pytest.raises(EmptyMesh, match="specks and slivers"):
        clean(np.array([[0, 0, 0], [1, 0, 0], [2.0, 0, 0]]), np.array([[0, 1, 2], [0, 1, 1]]))
    with pytest.raises(EmptyMesh, match="must be finite"):
        clean(np.array([[0, 0, 0], [1, 0, 0], [np.nan, 1, 0]]), np.array([[0, 1, 2]]))
    with pytest.raises(EmptyMesh):
        UnwrappedMesh(*nothing, np.zeros((0, 2)))
    with pytest.raises(EmptyMesh):
        TexturedMesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), colour)


def test_component_fraction():
    faces = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [6, 7, 8]])
    vertices = np.zeros((9, 3))
    assert len(keep_large_components(vertices, faces, 0.3)[1]) == 4
    assert len(keep_large_components(vertices, faces, 0.2)[1]) == 5


def test_the_atlas_covers_the_same_faces():
    (vertices, faces), baked, _ = made()
    assert baked.faces.shape == faces.shape
    assert np.array_equal(baked.vertices[baked.faces], vertices[faces])
    assert baked.uvs.min() >= 0 and baked.uvs.max() <= 1
    # Charts do not overlap if the number of covered texels is about the charts' area.
    a, b, c = (baked.uvs[baked.faces[:, i]].astype(np.float64) * SIZE for i in range(3))
    u, v = b - a, c - a
    area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() / 2
    texel, _ = texel_positions(torch.tensor(baked.vertices), torch.tensor(baked.faces), torch.tensor(baked.uvs), SIZE)
    assert len(texel) == pytest.approx(area, rel=0.03)
    assert area > 0.38 * SIZE**2, "the atlas wastes most of the texture"


def chart_of_each_texel(mesh, size):
    """Return an image (size, size) with the number of the chart that covers each texel, or 0."""
    count, label = connected_components(
        coo_matrix(
            (np.ones(len(mesh.faces) * 2), mesh.faces[:, [0, 1, 1, 2]].reshape(-1, 2).T), shape=(len(mesh.uvs),) * 2
        )
    )
    image = np.zeros(size * size, int)
    for chart in range(count):
        faces = torch.tensor(mesh.faces[label[mesh.faces[:, 0]] == chart])
        texel, _ = texel_positions(torch.tensor(mesh.vertices), faces, torch.tensor(mesh.uvs), size)
        assert (image[texel] == 0).all(), "two charts cover the same texel"
        image[texel] = chart + 1
    return image.reshape(size, size)


@pytest.mark.parametrize(("size", "margin"), [(SIZE, 1), (600, 2)])
def test_charts_keep_their_distance(size, margin):
    (vertices, faces), *_ = made()
    image = chart_of_each_texel(unwrap(vertices, faces, size, margin), size)
    assert image.max() > 5
    reach = 2 * margin * 2 + 1  # Texels in a window around each one that is covered.
    highest = maximum_filter(image, reach)
    lowest = minimum_filter(np.where(image > 0, image, image.max() + 1), reach)
    covered = image > 0
    assert (highest[covered] == lowest[covered]).all()


def test_texel_centres_and_the_padding():
    """Texel centres of a quad that covers the whole texture, and then a part of it."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    texel, points = texel_positions(vertices, faces, vertices[:, :2], 4, chunk=7)
    assert texel.tolist() == list(range(16))
    assert torch.allclose(points[1], torch.tensor([0.375, 0.875, 0.0]))  # row 0 is v = 1
    part = bake(lambda p: p, vertices.numpy(), faces.numpy(), vertices[:, :2].numpy() * 0.5 + 0.25, 16)
    assert part.shape == (16, 16, 3)
    assert np.allclose(part[4, 4], [1 / 16, 15 / 16, 0])
    assert np.allclose(part[0, 4], part[4, 4]) and np.allclose(part[4, 0], part[4, 4])
    assert np.allclose(part[15, 15], part[11, 11])
    with pytest.raises(ValueError, match="larger"):
        bake(lambda p: p, vertices.numpy(), faces.numpy(), vertices[:, :2].numpy() * 1e-4, 16)


def psnr(a, b):
    return -10 * math.log10((a - b).square().mean().item())


def test_the_written_glb_shows_the_colour_field(tmp_path):
    (vertices, faces), baked, texture = made()
    path = write_glb(tmp_path / "out" / "mesh.glb", baked, texture)
    assert [p.name for p in path.parent.iterdir()] == ["mesh.glb"]
    seen = load_glb(path).render(CAMERAS, 64)
    direct = TexturedMesh(torch.tensor(vertices), torch.tensor(faces), colour).render(CAMERAS, 64, supersampling=2)
    covered = (direct.opacity > 0.99).expand_as(direct.rgb)
    assert covered.float().mean() > 0.1
    assert psnr(seen.rgb[covered], direct.rgb[covered]) > 35
    assert psnr(seen.rgb, direct.rgb) > 35
    assert torch.allclose(seen.opacity, direct.opacity, atol=1e-4)
    # A wrong lookup is detected: a texture that is upside down gives a large error.
    flipped = TexturedView(baked, texture[::-1].copy())
    assert psnr(flipped.render(CAMERAS, 64).rgb[covered], direct.rgb[covered]) < 25


def test_up_is_up_in_the_file_and_comes_back(tmp_path):
    top = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    assert to_y_up(top).tolist() == [
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]  # z becomes y, and the front becomes +z, as glTF specifies
    assert np.array_equal(to_z_up(to_y_up(top)), top)
    assert np.linalg.det(to_y_up(np.eye(3))) == pytest.approx(1)
    _, baked, texture = made()
    path = write_glb(tmp_path / "mesh.glb", baked, texture)
    again, pixels = read_glb(path)
    assert np.array_equal(again.vertices, baked.vertices)
    assert np.array_equal(again.faces, baked.faces)
    assert np.allclose(again.uvs, baked.uvs, atol=1e-7)
    assert np.allclose(again.normals, baked.normals, atol=1e-7)
    assert np.abs(pixels / 255.0 - texture).max() <= 0.5 / 255 + 1e-6
    # trimesh reads the file as other programs do: the torus's axis (z) becomes y.
    other = trimesh.load(path, force="mesh")
    extents = other.bounds[1] - other.bounds[0]
    assert extents[1] < 0.5 * min(extents[0], extents[2])
    assert other.volume > 0
    assert other.visual.material.baseColorTexture.size == (SIZE, SIZE)
    assert other.visual.material.metallicFactor == 0 and other.visual.material.roughnessFactor == 1
    assert np.allclose(other.visual.uv, baked.uvs, atol=1e-6)


def test_the_glb_has_the_layout_of_the_standard():
    _, baked, texture = made()
    data = glb_bytes(baked, texture)
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    assert size % 4 == 0 and len(data) % 4 == 0
    assert document["buffers"][0]["byteLength"] == len(data) - 28 - size
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"]
    low, high = document["accessors"][0]["min"], document["accessors"][0]["max"]
    assert np.allclose([low, high], [to_y_up(baked.vertices).min(0), to_y_up(baked.vertices).max(0)])
    assert document["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}


def test_the_obj_reads_back(tmp_path):
    _, baked, texture = made()
    paths = write_obj(tmp_path / "mesh.obj", baked, texture)
    assert [p.name for p in paths] == ["mesh.obj", "mesh.mtl", "mesh.png"]
    other = trimesh.load(paths[0], force="mesh", process=False, maintain_order=True)
    corners = other.vertices[other.faces]
    assert np.allclose(corners, to_y_up(baked.vertices)[baked.faces], atol=1e-6)
    assert np.allclose(other.visual.uv[other.faces], baked.uvs[baked.faces], atol=1e-6)
    assert np.array_equal(np.array(other.visual.material.image)[0, 0], (texture[0, 0] * 255 + 0.5).astype(np.uint8))


def read_corners(path, library):
    """Read the corners (F, 3, 3) of the faces of a file with another library, without any change of axes."""
    if library == "trimesh":
        mesh = trimesh.load_scene(path, process=False, maintain_order=True).to_mesh()
        return mesh.vertices[mesh.faces]
    work = pymeshlab.MeshSet(verbose=False)
    work.load_new_mesh(str(path))
    mesh = work.current_mesh()
    return mesh.vertex_matrix()[mesh.face_matrix()]


@pytest.mark.parametrize("at_feet", [False, True])
@pytest.mark.parametrize("library", ["trimesh", "pymeshlab"])
def test_obj_and_glb_have_the_same_vertices_in_other_programs(tmp_path, library, at_feet):
    _, baked, texture = made()
    origin = feet(baked.vertices) if at_feet else None
    obj = write_obj(tmp_path / "mesh.obj", baked, texture, origin)[0]
    glb = write_glb(tmp_path / "mesh.glb", baked, texture, origin)
    first, second = read_corners(obj, library), read_corners(glb, library)
    assert first.shape == (len(baked.faces), 3, 3)
    assert np.allclose(first, second, atol=1e-6)
    low, high = first.min((0, 1)), first.max((0, 1))
    assert high[1] - low[1] < 0.5 * min(high[0] - low[0], high[2] - low[2]), "the torus's axis must be y"
    if at_feet:
        assert np.allclose([low[1], low[0] + high[0], low[2] + high[2]], 0, atol=1e-6)


def test_the_origin_at_the_feet_keeps_the_object_where_it_is_rendered(tmp_path):
    _, baked, texture = made()
    origin = feet(baked.vertices)
    assert abs(origin[2]) > 0.1
    moved, _ = read_glb(write_glb(tmp_path / "feet.glb", baked, texture, origin))
    assert np.allclose(moved.vertices, baked.vertices, atol=1e-6)
    # A file whose origin is the world origin says nothing about it.
    assert b"extras" in (tmp_path / "feet.glb").read_bytes()
    assert b"extras" not in glb_bytes(baked, texture)


def test_the_material_has_only_what_importers_know(tmp_path):
    _, baked, texture = made()
    lines = write_obj(tmp_path / "mesh.obj", baked, texture)[1].read_text().splitlines()
    assert lines == ["newmtl surface", "Kd 1 1 1", "Ks 0 0 0", "illum 1", "map_Kd mesh.png"]


def test_the_same_mesh_gives_the_same_bytes(tmp_path):
    files = []
    for name, (_, baked, texture) in (("a", made()), ("b", make())):
        write_glb(tmp_path / name / "mesh.glb", baked, texture)
        write_obj(tmp_path / name / "mesh.obj", baked, texture)
        files.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())})
    assert list(files[0]) == ["mesh.glb", "mesh.mtl", "mesh.obj", "mesh.png"]
    assert files[0] == files[1]


def test_the_error_for_a_broken_file_contains_its_name(tmp_path):
    _, baked, texture = made()
    path = tmp_path / "cut.glb"
    path.write_bytes(glb_bytes(baked, texture)[:-100])
    with pytest.raises(InputError, match="cut.glb"):
        load_glb(path)
    with pytest.raises(InputError, match="none.glb"):
        load_glb(tmp_path / "none.glb")
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="cut.glb"):
        load_glb(path)
    count = f'"count":{len(baked.vertices)},"type":"VEC2"'.encode()
    fewer = f'"count":{len(baked.vertices) - 1},"type":"VEC2"'.encode().rjust(len(count))
    path.write_bytes(glb_bytes(baked, texture).replace(count, fewer))
    with pytest.raises(InputError, match="cut.glb.*each vertex must have texture coordinates"):
        load_glb(path)


def test_colours_of_a_textured_mesh_receive_gradients():
    (vertices, faces), _, _ = made()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(3))

        def forward(self, points):
            return torch.sigmoid(self.value).expand(len(points), 3)

    scene = TexturedMesh(torch.tensor(vertices), torch.tensor(faces), Plain(), background=0.0)
    assert [name for name, _ in scene.named_parameters()] == ["colour.value"]
    image = scene.render(CAMERAS, 24)
    image.rgb.sum().backward()
    # sigmoid'(0) = 1/4 for every covered pixel.
    assert scene.colour.value.grad[0].item() == pytest.approx(image.opacity.sum().item() / 4, rel=1e-4)
    other = scene.render(CAMERAS, 24, background=torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(other.rgb[:, 0] - image.rgb[:, 0], 1 - image.opacity[:, 0], atol=1e-5)
    assert torch.allclose(other.rgb[:, 1:], image.rgb[:, 1:])
