"""Consistent flow distillation: noise that stays with the surface, and its replacement over a run."""

import copy
import math

import pytest
import torch

from prolific_core import cameras
from prolific_core.config import GuidanceConfig, StageConfig, TimeConfig
from prolific_core.guidance import base, surface_noise
from prolific_core.guidance.surface_noise import SIDES
from prolific_core.optimise import distil
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.render.result import Render
from prolific_core.scenes.image import LatentScene
from prolific_core.seeding import generator
from tests.support import tiny_pipeline
from tests.support.by_formula import PROMPT, draws

LATENT, CELLS, SIDE = 16, 2, 32
FOV, DISTANCE, RADIUS = 45.0, 2.5, 0.8


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return LatentDiffusion.load(str(tiny_pipeline.make(tmp_path_factory.mktemp("prior"))))


def guidance(prior, **options):
    config = GuidanceConfig(method="cfd", options={"cfd": options})
    return base.build_guidance(prior, config, PROMPT, generator=generator(0, "score"))


def ball(azimuths, resolution=64, radius=RADIUS):
    """Return a render of a ball at the origin, and its cameras."""
    views = cameras.orbit(360, elevation=0, distance=DISTANCE, fov=FOV)[torch.tensor(azimuths)]
    origins, directions = views.rays(resolution)
    middle = -(origins * directions).sum(-1)
    under = middle.square() - origins.square().sum(-1) + radius**2
    hit = (under > 0)[:, None].float()
    depth = (middle - under.clamp(min=0).sqrt())[:, None] * hit
    return Render(rgb=hit.expand(-1, 3, -1, -1), opacity=hit, depth=depth), views


def noise_of(azimuths, channels=2048):
    """Return the noise (B, C, h, w) of a ball in several views, with independent channels."""
    seen = surface_noise.visible_cells(*ball(azimuths), LATENT, SIDE, 2 * CELLS)
    values = torch.randn(SIDES * SIDE**2, channels, generator=generator(0, "values"))
    return surface_noise.transport(values, seen, torch.zeros(len(azimuths), channels, LATENT, LATENT))


def correlation(first, second):
    """Return the correlation over channels."""
    return (first * second).mean(0)


def test_every_cell_is_a_small_part_of_the_sphere():
    points = torch.randn(200_000, 3, generator=generator(0, "points"))
    cells = surface_noise.cells_of(points, 8)
    counts = torch.bincount(cells, minlength=SIDES * 64)
    assert len(counts) == SIDES * 64 and counts.min() > 0.5 * counts.float().mean()
    assert torch.equal(cells, surface_noise.cells_of(3.7 * points, 8))  # only the direction counts
    unit = torch.nn.functional.normalize(points, dim=1)
    for cell in range(0, SIDES * 64, 17):
        inside = unit[cells == cell]
        assert (inside @ inside.T).min() > math.cos(2 * math.pi / 2 / 8)


def test_noise_of_a_surface_is_white():
    noise = noise_of([20])[0]
    visible = noise.abs().sum(0) > 0
    assert 80 < visible.sum() < 160
    assert noise[:, visible].mean().abs() < 0.02
    assert (noise.square().mean(0)[visible] - 1).abs().max() < 0.2
    beside = correlation(noise[:, :, 1:], noise[:, :, :-1])[visible[:, 1:] & visible[:, :-1]]
    assert beside.abs().mean() < 0.12


def test_noise_moves_with_the_surface():
    """A turn by which the middle of the ball moves by one latent pixel moves its noise by one latent pixel."""
    pixel = 2 * (DISTANCE - RADIUS) * math.tan(math.radians(FOV / 2)) / LATENT
    turn = round(math.degrees(math.asin(pixel / RADIUS)))
    still, turned, behind = noise_of([20, 20 + turn, 200])
    middle = slice(6, 10)
    moved = max(
        correlation(still[:, middle, 6 + shift : 10 + shift], turned[:, middle, middle]).mean() for shift in (-1, 1)
    )
    assert moved > 0.6
    assert correlation(still[:, middle, middle], turned[:, middle, middle]).mean() < 0.4
    assert correlation(still[:, middle, middle], behind[:, middle, middle]).abs().mean() < 0.05


def test_background_has_the_noise_behind_the_surface():
    seen = surface_noise.visible_cells(*ball([0]), LATENT, SIDE, 2 * CELLS)
    behind = torch.randn(1, 4, LATENT, LATENT, generator=generator(0, "behind"))
    noise = surface_noise.transport(torch.zeros(SIDES * SIDE**2, 4), seen, behind)
    assert torch.equal(noise[..., 0, :], behind[..., 0, :])
    assert noise[..., 7:9, 7:9].abs().max() == 0


@pytest.mark.parametrize("refresh", [0.0, 2.5])
def test_noise_is_replaced_slowly_after_the_start(prior, refresh):
    guide = guidance(prior, refresh=refresh, start=0.2)
    drawn = []
    for progress in (0.0, 0.1, 0.2, 0.7):
        guide.progress = progress
        drawn.append(guide.consistent(torch.randn(64, 4, 8, 8, generator=generator(0, int(progress * 10)))))
    of_neighbours = [float((a * b).mean()) for a, b in zip(drawn, drawn[1:], strict=False)]
    assert of_neighbours[0] == pytest.approx(0, abs=0.03)
    assert of_neighbours[1] == pytest.approx(math.exp(-refresh * 0.1), abs=0.03)
    assert of_neighbours[2] == pytest.approx(math.exp(-refresh * 0.5), abs=0.03)
    assert drawn[-1].var() == pytest.approx(1, abs=0.03)


def test_a_second_run_begins_with_new_noise(prior):
    guide = guidance(prior, start=0.0)
    drawn = []
    for progress, images in ((0.0, 2), (0.9, 2), (0.0, 3), (0.9, 3)):
        guide.progress = progress
        drawn.append(guide.consistent(torch.randn(images, 4, 8, 8, generator=generator(0, len(drawn)))))
    expected = torch.randn(3, 4, 8, 8, generator=generator(0, 2))
    assert torch.equal(drawn[2], expected) and not torch.equal(drawn[3], expected)


def test_particles_have_their_own_noise_and_a_resumed_run_has_the_same(prior):
    render, views = ball([0, 90], resolution=32)
    latents, noise, t, _ = draws(2, torch.float32)
    first, second = guidance(prior), guidance(prior)
    for particle in (0, 1, 0):
        first.observe(particle, render, views)
        first.progress += 0.2
        first.gradient(latents, views, t, noise, generator(particle, "gradient"))
    assert not torch.equal(first._noise["0"]["surface"], first._noise["1"]["surface"])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for guide in (first, second):
        guide.observe(1, render, views)
        guide.progress = 0.9
    again = [guide.gradient(latents, views, t, noise, generator(9, "gradient")) for guide in (first, second)]
    assert torch.equal(*again)


def test_a_run_passes_its_renders_to_the_guidance(prior, monkeypatch):
    """The noise differs between scenes, which only the loop knows."""
    guide = guidance(prior)
    config = StageConfig(steps=6, views=2, guidance=GuidanceConfig(method="cfd", time=TimeConfig(anneal="none")))
    scenes = [LatentScene(prior.latent_shape, count=2, generator=generator(k, "scene")) for k in range(2)]
    distil(scenes, guide, config, seed=3)
    assert set(guide._noise) == {"0", "1"}
    assert not torch.equal(guide._noise["0"]["image"], guide._noise["1"]["image"])
