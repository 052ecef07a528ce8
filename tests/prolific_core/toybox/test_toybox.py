"""The Toybox world: shapes, captions, images and tokens have the properties that are known of them."""

import numpy as np
import pytest

from prolific_core.toybox.params import RenderConfig
from prolific_core.toybox.world import draw as world
from prolific_core.toybox.world import scene, shapes
from prolific_core.toybox.world.captions import KEEP
from prolific_core.toybox.world.renderer import Tracer, orbit
from prolific_core.toybox.world.scene import Look, relative_place
from prolific_core.view_names import view_of


def volume(s):
    """Signed volume of a closed mesh: positive where faces point outwards."""
    v = s.vertices[s.faces].astype(np.float64)
    return (np.cross(v[:, 0], v[:, 1]) * v[:, 2]).sum() / 6


@pytest.mark.parametrize("family", world.FAMILIES)
def test_family_fits_and_faces_outwards(family):
    for seed in range(4):
        s = scene.single_object(family, "red", np.random.default_rng(seed))
        radius = np.linalg.norm(s.vertices, axis=1).max()
        assert 0.46 - 1e-5 <= radius <= 0.5 + 1e-5
        assert np.abs(s.vertices.max(0) + s.vertices.min(0)).max() < 1e-5
        assert volume(s) > 0.005
        assert np.allclose(np.linalg.norm(s.normals, axis=1), 1, atol=1e-4)
        assert s.colours.min() >= 0 and s.colours.max() <= 1
        assert len(s.colours) == len(s.faces)


def test_shapes_are_closed():
    """Every edge of a merged family mesh is shared in opposite directions."""
    for family in ("ball", "ring", "mug", "chair", "house", "teapot"):
        mesh = scene.single_object(family, "blue", np.random.default_rng(0)).trimesh()
        assert mesh.is_winding_consistent, family
        assert mesh.is_watertight, family


def test_proportions_vary():
    for family in world.FAMILIES:
        sizes = np.stack(
            [np.ptp(scene.single_object(family, "red", np.random.default_rng(k)).vertices, axis=0) for k in range(6)]
        )
        assert sizes.std(0).max() > 0.005, family


def test_fronts_face_x():
    """Parts that make a front lie at +x: nose, door, headlights; a chair's back at -x."""
    from prolific_core.toybox.world.families import FAMILIES

    def centre(family, role, seed):
        parts = FAMILIES[family](np.random.default_rng(seed))
        chosen = np.concatenate([p.vertices for p in parts if p.role == role])
        everything = np.concatenate([p.vertices for p in parts])
        return chosen.mean(0) - (everything.max(0) + everything.min(0)) / 2

    for seed in range(3):
        assert centre("snowman", "nose", seed)[0] > 0.3
        assert centre("house", "door", seed)[0] > 0.3
        assert centre("car", "light", seed)[0] > 0.5
        assert centre("plane", "dark", seed)[0] > 0.5
        chair = scene.single_object("chair", "red", np.random.default_rng(seed)).vertices
        assert chair[chair[:, 2] > 0.3][:, 0].mean() < -0.05
        mug = scene.single_object("mug", "red", np.random.default_rng(seed)).vertices
        assert mug[:, 1].max() > 1.2 * mug[:, 0].max()  # the handle is at +y: right, seen from the front


def test_captions_tell_the_truth():
    named = 0
    for k in range(60):
        e = world.draw(5, k, size=8)
        assert e.view == view_of(e.azimuth, e.elevation)
        if e.caption.endswith(" view"):
            named += 1
            assert e.caption.endswith(f", {e.view} view")
        body = e.caption.split(",")[0]
        if e.stripes:
            assert world.parse_striped(e.caption) == (e.family, e.colour, e.stripes)
            assert world.parse(e.caption) is None
        elif e.kind == "colour":
            assert world.parse(e.caption) == (e.family, e.colour)
            assert not world.held_out(e.family, e.colour)
        elif e.kind == "normals":
            assert (
                "normal map" in body and e.family in body and (not e.second or f"{e.relation} a {e.second[0]}" in body)
            )
            assert world.parse(e.caption) is None
        elif e.kind == "pair":
            assert world.parse_pair(e.caption) == ((e.family, e.colour), e.relation, e.second)
    assert 15 < named < 45


def test_the_mix_is_what_the_parameters_say():
    examples = [world.draw(6, k, size=4, samples=1) for k in range(600)]
    for kind, fraction in RenderConfig().mix:
        assert abs(np.mean([e.kind == kind for e in examples]) - fraction) < 0.06, kind
    single = [e for e in examples if e.kind == "colour"]
    assert 0.02 < np.mean([e.stripes is not None for e in single]) < 0.14
    assert any(e.second for e in examples if e.kind == "normals")


def test_stripes_are_cut_into_the_mesh():
    plain = scene.single_object("cube", "red", np.random.default_rng(0)).trimesh()
    striped = scene.single_object("cube", "red", np.random.default_rng(0), stripes="blue")
    mesh = striped.trimesh()
    assert np.isclose(mesh.area, plain.area, rtol=0.2) and np.isclose(
        mesh.volume / mesh.bounding_box.volume, 1, atol=1e-5
    )
    assert mesh.is_watertight
    blue = striped.colours[:, 2] > striped.colours[:, 0]
    centre, area = striped.vertices[striped.faces].mean(1), mesh.area_faces
    side = np.abs(striped.normals[striped.faces[:, 0], 2]) < 0.5
    assert 0.3 < area[blue & side].sum() / area[side].sum() < 0.55
    order = np.argsort(centre[side, 2])
    assert np.count_nonzero(np.diff(blue[side][order].astype(int))) in (4, 5, 6)  # five to seven bands, level


def test_a_cut_keeps_the_surface():
    ball = shapes.sphere(1.0)
    cut = ball.cut(0.33)
    z = cut.vertices[:, 2][cut.faces]
    assert not ((z > 0.33 + 1e-9).any(1) & (z < 0.33 - 1e-9).any(1)).any()
    assert len(cut.faces) > len(ball.faces) and np.allclose(np.linalg.norm(cut.normals, axis=1), 1)
    area = [
        np.linalg.norm(np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]), axis=1).sum()
        for t in (p.vertices[p.faces] for p in (ball, cut))
    ]
    assert np.isclose(*area)


def test_places_are_as_the_image_shows():
    """The true answer for two objects follows from the caption and the camera, whichever object is named first."""
    front = {"family": "ball", "colour": "red", "second": ("cube", "blue"), "azimuth": 0.0}
    assert relative_place(front | {"relation": "on"})[2] == "above"
    assert relative_place(front | {"relation": "left of"})[2] == "left"
    assert relative_place(front | {"relation": "left of", "azimuth": np.pi})[2] == "right"
    assert relative_place(front | {"relation": "in front of"})[2] == "nearer"
    assert relative_place(front | {"relation": "in front of", "azimuth": np.pi / 2})[2] == "left"
    assert relative_place(front | {"relation": "next to"})[2] is None
    swapped = {"family": "cube", "colour": "blue", "second": ("ball", "red"), "azimuth": 0.3, "relation": "under"}
    assert relative_place(swapped) == (("ball", "red"), ("cube", "blue"), "above")
    seen = 0
    for k in range(500):  # in renders, the red object's pixels lie where the place says
        e = world.draw(8, k, kind="pair", view="front", size=32, samples=1)
        first, second, place = relative_place(e.label())
        if place in ("left", "right", "above", "below") and {first[1], second[1]} == {"red", "blue"}:
            image = e.image.astype(int)
            where = {
                c: np.argwhere((image[..., i] > 1.6 * image[..., 2 - i]) & (image[..., i] > 60)).mean(0)
                for c, i in (("red", 0), ("blue", 2))
            }
            axis, sign = {"left": (1, -1), "right": (1, 1), "above": (0, -1), "below": (0, 1)}[place]
            assert sign * (where[first[1]] - where[second[1]])[axis] > 0, e.caption
            seen += 1
    assert seen >= 3


def test_held_out_pairs():
    pairs = [(f, c) for f in world.FAMILIES for c in world.COLOURS]
    fraction = np.mean([world.held_out(*p) for p in pairs])
    assert 0.04 < fraction < 0.16
    assert not any(world.held_out(*p) for p in KEEP)


def test_suggest_names_the_unknown():
    assert world.suggest("a red mug, front view") == ([], [])
    unknown, known = world.suggest("a crimson mugg")
    assert unknown == ["crimson", "mugg"] and "mug" in known
    assert "mug" in world.suggest("a zebra")[1]


def test_a_seed_gives_the_same_bytes():
    a, b, c = world.draw(3, 14), world.draw(3, 14), world.draw(4, 14)
    assert a.image.tobytes() == b.image.tobytes() and a.label() == b.label()
    assert a.image.tobytes() != c.image.tobytes()


def test_sample_gives_true_objects():
    scenes = world.sample("a red mug", 3, seed=0)
    assert len(scenes) == 3
    again = world.sample("a red mug", 3, seed=0)
    assert all(np.array_equal(a.vertices, b.vertices) for a, b in zip(scenes, again))
    assert not np.array_equal(scenes[0].vertices[:50], scenes[1].vertices[:50])
    red = scenes[0].colours.mean(0)
    assert red[0] > 2 * red[1]
    stacked = world.sample("a red ball on a blue cube", 1)[0]
    is_red = stacked.colours[:, 0] > stacked.colours[:, 2]
    heights = stacked.vertices[stacked.faces][..., 2].mean(1)
    assert heights[is_red].mean() > heights[~is_red].max() - 0.02
    with pytest.raises(ValueError, match="mug"):
        world.sample("a zebra", 1)


def test_cameras():
    for azimuth, elevation in ((0.0, 0.0), (1.0, 0.5), (-2.0, 1.3)):
        pose = orbit(azimuth, elevation, 1.5)
        assert np.isclose(np.linalg.det(pose[:3, :3]), 1)
        assert np.allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3))
        assert np.allclose(-pose[:3, 2], -pose[:3, 3] / 1.5)  # it looks at the origin
    assert np.allclose(orbit(0, 0, 2)[:3, 3], (2, 0, 0))
    assert np.allclose(orbit(0, 0, 2)[:3, 0], (0, 1, 0))  # right of the front view is +y


def test_normal_map_of_a_sphere_is_analytic():
    """Every pixel's normal against the ray-sphere intersection, at one ray a pixel."""
    from prolific_core.toybox.world.shapes import sphere

    fine = sphere(0.45, 96, 192)
    s = scene.Scene(
        fine.vertices.astype(np.float32),
        fine.normals.astype(np.float32),
        fine.faces.astype(np.int32),
        np.ones((len(fine.faces), 3), np.float32),
    )
    size, fov, pose = 64, np.radians(45), orbit(0.7, 0.4, 1.6)
    image = Tracer(s).render(pose, fov, Look(normals=True), size, samples=1)
    u = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(u, -u)
    d = np.stack([x * np.tan(fov / 2), y * np.tan(fov / 2), -np.ones_like(x)], -1) @ pose[:3, :3].T
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    b = d @ pose[:3, 3]
    inside = b**2 - (1.6**2 - 0.45**2)
    hit = inside > 0.01  # away from the rim, where facets differ from the sphere
    n = (pose[:3, 3] + (-b - np.sqrt(np.maximum(inside, 0)))[..., None] * d) / 0.45
    assert hit.sum() > 800
    assert np.abs(image[hit] * 2 - 1 - n[hit]).max() < 0.02
    assert np.allclose(image[inside < -0.01], 0.5)


def test_colour_and_background():
    s = scene.single_object("ball", "blue", np.random.default_rng(0))
    image = Tracer(s).render(orbit(0, 0.3, 1.6), np.radians(45), Look(background=(0.2, 0.9, 0.4)))
    assert np.allclose(image[0, 0], (0.2, 0.9, 0.4), atol=1e-6)
    assert image[32, 32].argmax() == 2
    assert image[24, 32].sum() > image[44, 32].sum()  # lit from above


def test_public_render_shape():
    s = world.sample("a green car", 1)[0]
    views = world.render(s, [orbit(a, 0.2, 1.6) for a in (0.0, 1.5)])
    assert views.shape == (2, 3, 64, 64) and views.min() >= 0 and views.max() <= 1


def test_room_surrounds_the_camera():
    g = np.random.default_rng(0)
    image = Tracer(scene.room("green", g)).render(orbit(0.5, 0.0, 0.2), np.radians(70), Look(background=(1, 0, 1)))
    assert not np.isclose(image, (1, 0, 1)).all(-1).any()  # no ray escapes


def test_tokens_are_whole_words():
    from prolific_core.toybox.training import text

    tok = text.tokenizer()
    for word in world.known_words():
        expected = len(word) if word == "3d" else 1
        assert len(tok(word).input_ids) == 2 + expected, word
    ids = text.encode(
        tok, ["a normal map of an orange teapot on top of a grey house, overhead view", "🙂 naïve \n <x>"]
    )
    assert ids.shape == (2, 32) and int(ids.max()) < len(tok)
    assert tok.decode(tok("a red mug, front view").input_ids[1:-1]).replace(" ,", ",") == "a red mug, front view"


def test_words_keep_their_numbers():
    """Learned anew, BPE breaks ties by a hash that differs from process to process: weights then misread words."""
    import json
    import subprocess
    import sys

    from prolific_core.toybox.params import WEIGHTS
    from prolific_core.toybox.training import text

    sentence = "a normal map of a red and blue striped mug on a cube with stripes"
    shown = f"text.encode(text.tokenizer(), [{sentence!r}])[0].tolist()"
    code = f"from prolific_core.toybox.training import text; print({shown})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(other) == text.encode(text.tokenizer(), [sentence])[0].tolist()
    for part in ("tokenizer", "scorer"):
        if (WEIGHTS / part).is_dir():
            packaged = json.loads((WEIGHTS / part / "vocab.json").read_text())
            assert packaged.items() <= text.learned()[0].items(), part  # a later vocabulary only adds words


def test_patch_pca_start_reproduces_the_codec():
    """The encoder's starting weights are the patch PCA, through norm and SiLU."""
    import torch

    from prolific_core.toybox.training import autoencoder, codec_init
    from prolific_core.toybox.training.shards import to_unit

    torch.manual_seed(0)
    images = np.stack([world.draw(8, k).image for k in range(24)])
    vae = autoencoder.build(6, (16, 32, 32)).eval()
    codec_init.start_encoder(vae, images)
    mean, components, std = codec_init.patch_pca(images, 6)
    with torch.no_grad():
        z = autoencoder.encode_mean(vae, to_unit(images))
    x = images.astype(np.float32) / 127.5 - 1
    x = x.reshape(24, 16, 4, 16, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(24, 16, 16, 48)
    expected = ((x - mean) @ components.T / np.sqrt(std * std[0])).transpose(0, 3, 1, 2)
    assert ((z.numpy() - expected) ** 2).mean() < 0.01
