"""The radiance field: its initial shapes, its images and its randomness."""

import math

import pytest
import torch

from prolific_core import cameras
from prolific_core.config import FieldConfig, LossWeights, NerfConfig
from prolific_core.errors import InputError
from prolific_core.render import Render
from prolific_core.render.volume.marching import TooManySamples
from prolific_core.scenes import initial_density, regularisers
from prolific_core.scenes import radiance_field as rf
from prolific_core.scenes.radiance_field import RadianceField


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def config(**changes):
    values = {
        "levels": 4,
        "features": 2,
        "log2_entries": 11,
        "base_resolution": 4,
        "max_resolution": 32,
        "interpolation": "smoothstep",
        "hidden_width": 16,
        "hidden_layers": 1,
        "bound": 1.0,
        "scene": "object",
        "density_scale": 10.0,
        "density_radius": 0.5,
        "density_noise": 1.0,
        "background": "network",
        "occupancy_resolution": 16,
        "occupancy_threshold": 0.01,
        "samples_per_ray": 96,
        "importance_samples": 0,
    }
    return FieldConfig(**{**values, **changes})


def field(seed=0, backend="auto", **changes):
    return RadianceField(config(**changes), generator(seed), backend)


def rough(seed=0, **changes):
    """A field with strong features, so that nothing about it is symmetric."""
    made = field(seed, **changes)
    made.encoding.table.data.normal_(0, 0.5, generator=generator(seed + 1))
    return made


def rays(resolution=16, views=1, distance=1.6, fov=45.0):
    return cameras.orbit(views, elevation=15, distance=distance, fov=fov).rays(resolution)


# -- the initial density


@pytest.mark.parametrize(
    ("scene", "at", "expected"),
    [
        ("object", (0.0, 0.5, 1.0), (10.0, 0.0, -10.0)),
        ("scene", (0.0, 2.5, 5.0), (-10.0, 0.0, 10.0)),
        ("object-in-scene", (0.0, 0.5, 2.5, 5.0), (10.0, 0.0, 0.0, 10.0)),
    ],
)
def test_initial_bias_follows_its_formula(scene, at, expected):
    direction = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5]), dim=0)
    x = torch.tensor(at)[:, None] * direction
    assert torch.allclose(initial_density.initial_bias(x, scene, 10.0, 0.5), torch.tensor(expected), atol=1e-5)


def test_object_in_scene_switches_at_five_sixths_and_is_continuous_there():
    x = torch.tensor([[5 / 6 - 1e-5, 0, 0], [5 / 6 + 1e-5, 0, 0]])
    bias = initial_density.initial_bias(x, "object-in-scene", 10.0, 0.5)
    assert bias[0].item() == pytest.approx(-20 / 3, abs=1e-3)
    assert bias[1].item() == pytest.approx(-20 / 3, abs=1e-3)
    outside = torch.tensor([[5 / 6 + 0.1, 0, 0]])
    assert initial_density.initial_bias(outside, "object-in-scene", 10.0, 0.5) == initial_density.initial_bias(
        outside, "scene", 10.0, 0.5
    )


@pytest.mark.parametrize(("scene", "bound"), [("object", 1.0), ("scene", 5.0), ("object-in-scene", 5.0)])
def test_a_new_field_s_density_is_the_activated_bias(scene, bound):
    made = field(scene=scene, bound=bound)
    x = (torch.rand(200, 3, generator=generator(3)) * 2 - 1) * bound
    expected = torch.nn.functional.softplus(initial_density.initial_bias(x, scene, 10.0, 0.5))
    assert torch.allclose(made.density(x), expected, rtol=1e-2, atol=1e-3)
    assert torch.allclose(made.colour(x), torch.full((200, 3), 0.5), atol=1e-2)


def test_the_first_image_is_the_ball():
    """Opacity through the centre: the integral of softplus(10 (1 - 2|t|)) along the diameter."""
    made = field(samples_per_ray=512)
    origins, directions = torch.tensor([3.0, 0, 0]).expand(1, 1, 1, 3), torch.tensor([-1.0, 0, 0]).expand(1, 1, 1, 3)
    render = made.render_rays(origins, directions, background="black")
    t = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    thickness = torch.trapezoid(torch.nn.functional.softplus(10 * (1 - t.abs() / 0.5)), t).item()
    assert render.opacity.item() == pytest.approx(1 - math.exp(-thickness), abs=1e-3)
    assert render.rgb[0, 0].item() == pytest.approx(0.5 * render.opacity.item(), abs=1e-2)
    assert 2.3 < render.depth.item() < 3.0


def test_a_scene_needs_a_box_that_holds_it():
    with pytest.raises(InputError, match="bound"):
        field(scene="scene", bound=1.0)


# -- images


def test_shapes_and_ranges():
    made = rough()
    origins, directions = rays(12, views=2)
    render = made.render_rays(origins, directions, normals=True)
    assert isinstance(render, Render)
    assert render.rgb.shape == render.normal.shape == (2, 3, 12, 12)
    assert render.opacity.shape == render.depth.shape == (2, 1, 12, 12)
    for image in (render.rgb, render.opacity, render.normal):
        assert image.dtype == torch.float32 and image.min() >= -1e-6 and image.max() <= 1 + 1e-6
    assert render.opacity.max() > 0.5 > render.opacity.min()
    assert len(render.weights) == len(render.samples) > 0


def test_the_image_is_the_right_way_up_and_round():
    """A red half at y > 0 and a field cut to z > 0, seen from the front: y to the right, z up."""
    made = field(background="black")

    class Halves(torch.nn.Module):
        width = 3

        def forward(self, unit):
            return unit * 2 - 1

    class Colours(torch.nn.Module):
        def forward(self, x):
            red = x[:, 1] * 100
            return torch.stack([(x[:, 2] - 0.02) * 100, red, -red, -red], dim=-1)

    made.encoding, made.network = Halves(), Colours()
    rgb = made.render_rays(*rays(16)).rgb[0]
    assert rgb[0, 4, 10] > 0.5 > rgb[2, 4, 10]  # upper right: y > 0, red
    assert rgb[2, 4, 5] > 0.5 > rgb[0, 4, 5]  # upper left: y < 0, blue
    assert rgb[:, 14, 8].max() < 0.05  # below: empty


def test_normals_of_the_ball_point_away_from_its_centre():
    made = field()
    x = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator()), dim=-1) * 0.4
    assert torch.allclose(made.normals(x), x / 0.4, atol=0.02)
    render = made.render_rays(*rays(17), normals=True)
    expected = -rays(17)[1][0, 8, 8] * render.opacity[0, :, 8, 8]  # the middle pixel faces the camera
    assert torch.allclose(render.normal[0, :, 8, 8] * 2 - 1, expected, atol=0.02)


@pytest.mark.parametrize("normals", [False, True])
def test_chunks_without_gradients_give_the_same_image(monkeypatch, normals):
    made, view = rough(), rays(16, views=2)
    whole = made.render_rays(*view, normals=normals)
    monkeypatch.setattr(rf, "CHUNK", 100)
    with torch.no_grad():
        pieces = made.render_rays(*view, normals=normals)
    assert torch.allclose(whole.rgb, pieces.rgb, atol=1e-6)
    assert torch.allclose(whole.depth, pieces.depth, atol=1e-5)
    assert pieces.samples is None


def test_skipping_after_an_update_keeps_the_image():
    made, view = rough(density_noise=0.0), rays(24, views=2)
    full = made.render_rays(*view)
    updates = [made.update_occupancy(step, generator(step)) for step in range(49)]
    assert [step for step, updated in enumerate(updates) if updated] == [0, 16, 32, 48]
    skipped = made.render_rays(*view)
    assert len(skipped.samples) < len(full.samples) / 2
    error = (skipped.rgb - full.rgb).square().mean().item()
    assert -10 * math.log10(error + 1e-12) > 40


def test_a_particle_that_is_drawn_at_times_still_updates_every_16_of_its_own_steps():
    made = field()
    steps = range(3, 300, 7)  # none of them a multiple of 16 in time
    updated = [made.update_occupancy(step, generator(step)) for step in steps]
    assert [i for i, u in enumerate(updated) if u] == [0, 16, 32]
    resumed = field()
    resumed.load_state_dict(made.state_dict())
    assert resumed.occupancy.visits == len(steps)


def test_native_and_reference_train_alike():
    gradients = []
    for backend in ("warp", "torch"):
        made = rough(backend=backend)
        render = made.render_rays(*rays(12), generator=generator(4))
        (render.rgb.square().mean() + render.depth.mean()).backward()
        gradients.append([p.grad for p in made.parameters()])
    for native, reference in zip(*gradients):
        assert torch.allclose(native, reference, rtol=1e-3, atol=1e-6)
    assert all(g.abs().max() > 0 for g in gradients[0])


def test_an_empty_view_is_only_background_and_trains():
    made = field()
    origins, directions = rays(8)
    render = made.render_rays(origins, -directions, background="white", normals=True)
    assert len(render.samples) == 0
    assert (render.rgb == 1).all() and (render.opacity == 0).all() and (render.normal == 0.5).all()
    loss = render.rgb.mean() + regularisers.entropy(render) + regularisers.sparsity(render)
    (loss + regularisers.orientation(render, -directions)).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def test_too_many_samples_are_refused():
    made = RadianceField(config(), generator(), max_samples=50)
    with pytest.raises(TooManySamples):
        made.render_rays(*rays(8))


# -- randomness


def test_same_seed_same_bytes():
    def train():
        made = rough()
        made.update_occupancy(0, generator(9))
        optimizer = torch.optim.Adam(made.parameter_groups({"grid": 0.01, "networks": 1e-3, "background": 1e-3}))
        for step in range(3):
            render = made.render_rays(*rays(12), generator=generator(step), random_background_probability=0.5)
            optimizer.zero_grad()
            (render.rgb - 0.3).square().mean().backward()
            optimizer.step()
        return b"".join(v.numpy().tobytes() for v in made.state_dict().values())

    torch.manual_seed(1)
    first = train()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert train() == first
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was left alone


def test_a_render_draws_from_its_generator_and_is_deterministic_without_one():
    made, view = rough(), rays(8)
    first, again, other = (made.render_rays(*view, generator=generator(s)).rgb for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(made.render_rays(*view).rgb, made.render_rays(*view).rgb)


def test_density_noise_is_added_before_the_activation_while_training_only():
    loud, quiet = rough(density_noise=3.0), rough(density_noise=0.0)
    assert torch.equal(loud.render_rays(*rays(8)).rgb, quiet.render_rays(*rays(8)).rgb)
    x = torch.zeros(1000, 3)
    noise = torch.randn(1000, generator=generator())
    before = loud(x)[0].expm1().log()  # softplus inverted
    assert torch.allclose(loud(x, noise)[0].expm1().log() - before, noise, atol=1e-3)


def test_random_backgrounds_come_with_their_probability():
    made = field(background="white")
    origins, directions = rays(2, views=1)
    view = origins.expand(400, 2, 2, 3), -directions.expand(400, 2, 2, 3)
    images = made.render_rays(*view, generator=generator(), random_background_probability=0.25).rgb
    assert (images.std(dim=(2, 3)) < 1e-6).all()  # plain
    changed = (images[:, :, 0, 0] < 1).any(dim=1).float().mean().item()
    assert 0.19 < changed < 0.31
    assert (made.render_rays(*view, random_background_probability=1.0).rgb == 1).all()  # not without a generator


def test_backgrounds_by_name_and_colour():
    made, directions = field(), rays(4, views=2)[1]
    assert (made.background_colour(directions, "grey") == 0.5).all()
    colours = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    assert torch.equal(made.background_colour(directions, colours)[:, :, 1, 2], colours)
    network = made.background_colour(directions)
    assert network.shape == (2, 3, 4, 4) and network.std() > 1e-3
    with pytest.raises(InputError, match="plaid"):
        made.background_colour(directions, "plaid")
    with pytest.raises(InputError, match="network"):
        field(background="white").background_colour(directions, "network")


# -- training


def test_groups_hold_every_parameter_once_without_decay():
    made = field()
    groups = made.parameter_groups({"grid": 0.01, "networks": 1e-3, "background": 2e-3})
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("grid", 0.01, 0.0),
        ("networks", 1e-3, 0.0),
        ("background", 2e-3, 0.0),
    ]
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in made.parameters()}


def test_a_training_render_follows_the_training_configuration():
    weights = LossWeights(opacity=1.0, opacity_end=3.0, sparsity=2.0, entropy=0.0, orientation=0.5)
    config_ = NerfConfig(random_background=1.0, losses=weights)
    made = RadianceField(config(), generator(), train_config=config_)
    views = cameras.orbit(2, elevation=15, distance=1.6, fov=45)
    render = made.render(views, 12, generator(4))
    origins, directions = views.rays(12)
    by_rays = made.render_rays(
        origins, directions, generator=generator(4), random_background_probability=1.0, normals=True
    )
    assert torch.equal(render.rgb, by_rays.rgb)
    losses = made.losses(render, 0.5)
    assert list(losses) == ["opacity", "sparsity", "orientation"]
    assert losses["opacity"].item() == pytest.approx(2 * render.opacity.mean().item())
    assert torch.equal(losses["sparsity"], 2 * regularisers.sparsity(by_rays))
    assert torch.equal(losses["orientation"], 0.5 * regularisers.orientation(by_rays, directions))
    assert torch.equal(
        made.render(views, 12, background="white").rgb, made.render_rays(origins, directions, background="white").rgb
    )
    assert [group["lr"] for group in made.parameter_groups()] == [0.01, 1e-3, 1e-3]


def test_state_dict_restores_the_image_and_the_skipping():
    first = rough()
    first.update_occupancy(0, generator())
    second = field(seed=5)
    second.load_state_dict(first.state_dict())
    a, b = first.render_rays(*rays(8)), second.render_rays(*rays(8))
    assert torch.equal(a.rgb, b.rgb) and len(a.samples) == len(b.samples)


def test_it_learns_an_image():
    """Fitting the colours of one view reduces the error by a factor of ten."""
    made, view = field(background="white", density_noise=0.0), rays(16)
    target = torch.tensor([0.9, 0.2, 0.1])[None, :, None, None]
    optimizer = torch.optim.Adam(made.parameter_groups({"grid": 0.02, "networks": 5e-3}), eps=1e-15)
    losses = []
    for step in range(60):
        render = made.render_rays(*view, generator=generator(step))
        loss = (render.rgb - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


# -- patches


def trained_once(patch, seed=4, **changes):
    """Return a training render, and all gradients of a loss on it that contains every regulariser."""
    made = rough(**changes)
    made.update_occupancy(0, generator(9))
    view = rays(12, views=2)
    render = made.render_rays(
        *view, generator=generator(seed), random_background_probability=0.5, normals=True, patch=patch
    )
    target = torch.rand(render.rgb.shape, generator=generator(5))
    loss = (render.rgb - target).square().sum() + render.depth.mean() + render.normal.square().mean()
    for term in (regularisers.opacity, regularisers.sparsity, regularisers.entropy):
        loss = loss + 3 * term(render)
    (loss + 3 * regularisers.orientation(render, view[1])).backward()
    return render, [parameter.grad for parameter in made.parameters()]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("patch", [37, 100, 288, 1000])
def test_patches_give_the_whole_image_s_gradients(patch, backend):
    whole, expected = trained_once(None, backend=backend)
    pieces, found = trained_once(patch, backend=backend)
    assert torch.allclose(whole.rgb, pieces.rgb, atol=1e-6) and len(whole.samples) == len(pieces.samples) > 1000
    assert torch.allclose(whole.weights, pieces.weights, atol=1e-6)
    for a, b in zip(expected, found, strict=True):
        assert a.abs().max() > 0
        assert (a - b).abs().max() <= 2e-5 * a.abs().max()
    if patch >= 288:  # no second render: the very same bytes
        assert all(torch.equal(a, b) for a, b in zip(expected, found))


def test_the_graph_of_one_patch_at_a_time_is_held(monkeypatch):
    """The backward pass renders each patch again, from last to first, and finishes it before the next."""
    made, log = rough(density_noise=0.0), []
    made.update_occupancy(0, generator(9))
    forward = made.network.forward

    def logged(x):
        out = forward(x)
        log.append(("forward", len(x)))
        out.register_hook(lambda gradient: log.append(("backward", len(gradient))))
        return out

    monkeypatch.setattr(made.network, "forward", logged)
    image = made.render_rays(*rays(16), generator=generator(1), patch=64)
    sizes = [count for _, count in log]
    assert len(sizes) == 4 and sum(sizes) == len(image.samples) and [name for name, _ in log] == ["forward"] * 4
    log.clear()
    image.rgb.sum().backward()
    assert log == [(name, count) for count in sizes[::-1] for name in ("forward", "backward")]


def test_a_patch_with_too_many_samples_is_refused():
    made = RadianceField(config(), generator(), max_samples=8000)
    view = rays(16)
    with pytest.raises(TooManySamples, match="at most 8000"):
        made.render_rays(*view, patch=200)
