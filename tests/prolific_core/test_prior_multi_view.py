"""The multi-view prior: views of one orbit see each other and their cameras, and guidance draws one t for them."""

import pytest
import torch

from prolific_core import cameras
from prolific_core.config import CameraConfig, GuidanceConfig, ScoreConfig, StageConfig
from prolific_core.errors import InputError
from prolific_core.guidance.base import build_guidance
from prolific_core.prior.kinds import load_prior
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.multi_view import MultiViewDiffusion, camera_numbers
from prolific_core.seeding import generator
from tasks.guided import check_views
from tests.support import tiny_multi_view

PROMPT = "a red mug"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_multi_view.make(tmp_path_factory.mktemp("multi-view"))


@pytest.fixture
def prior(folder):
    return load_prior(str(folder))


def orbits(count: int = 1) -> cameras.Cameras:
    return cameras.orbit(4 * count, elevation=15, distance=1.4, fov=45)


def noisy(count: int = 1) -> torch.Tensor:
    return torch.randn(4 * count, 4, 8, 8, generator=generator(0, "noisy"))


def predict(prior, latents, c2w):
    prior.observe(c2w)
    t = torch.full((len(latents),), 500)
    with torch.no_grad():
        return prior.predict_noise(latents, t, prior.embed([PROMPT] * len(latents)))


def test_the_views_of_an_orbit_see_each_other_and_no_other_orbit(prior):
    assert type(prior) is MultiViewDiffusion
    latents, c2w = noisy(2), orbits(2).c2w
    before = predict(prior, latents, c2w)
    latents[1] += 1
    changed = (predict(prior, latents, c2w) - before).flatten(1).norm(dim=1)
    assert (changed[:4] > 1e-3).all() and (changed[4:] < 1e-5).all()


def test_views_may_come_in_any_order(prior):
    latents, c2w, order = noisy(), orbits().c2w, torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(predict(prior, latents, c2w)[order], predict(prior, latents[order], c2w[order]))


def test_the_direction_of_a_camera_matters_and_its_distance_does_not(prior):
    latents, near, far = noisy(), orbits(), cameras.orbit(4, elevation=15, distance=3.0, fov=45)
    turned = near.c2w.roll(1, 0)
    assert (predict(prior, latents, near.c2w) - predict(prior, latents, turned)).abs().max() > 1e-3
    torch.testing.assert_close(predict(prior, latents, near.c2w), predict(prior, latents, far.c2w))
    numbers = camera_numbers(far.c2w).view(4, 4, 4)
    torch.testing.assert_close(numbers[:, :3, 3].norm(dim=-1), torch.ones(4))
    assert torch.equal(numbers[:, :3, :3], far.c2w[:, :3, :3])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vsd_starts_at_the_prior_and_learns_with_one_t_for_all_views(folder, dtype, monkeypatch):
    prior = load_prior(str(folder), dtype=dtype)
    score = ScoreConfig(learning_rate=1e-2, targets="all")
    guide = build_guidance(prior, GuidanceConfig(score=score), PROMPT, generator=generator(0, "score"))
    views = cameras.sample(4, CameraConfig(orbit=True), generator(0, "cameras"))
    times, add_noise = [], prior.schedule.add_noise
    monkeypatch.setattr(prior.schedule, "add_noise", lambda x, e, t: times.append(t) or add_noise(x, e, t))
    latents = noisy().requires_grad_()
    guide.loss(latents, views, 0.5, generator(0, "loss")).backward()
    assert torch.isfinite(latents.grad).all() and latents.grad.any()
    steps = [guide.train_step(latents.detach(), views.c2w, generator(7, "same"), measure=True) for _ in range(12)]
    assert len(times) == 13 and all(len(set(t.tolist())) == 1 and len(t) == 4 for t in times)
    assert len({int(t[0]) for t in times}) == 2
    assert steps[0]["score_gain"] == pytest.approx(1, abs=2e-2 if dtype == "bfloat16" else 1e-5)
    assert steps[-1]["score_loss"] < 0.95 * steps[0]["score_loss"]


def test_a_shared_pass_has_metrics_if_the_score_network_has_a_base_of_its_own(folder, prior):
    score = ScoreConfig(base=str(folder), share_pass=True)
    guide = build_guidance(prior, GuidanceConfig(score=score), PROMPT, generator=generator(0, "score"))
    views = cameras.sample(4, CameraConfig(orbit=True), generator(0, "cameras"))
    guide.loss(noisy().requires_grad_(), views, 0.5, generator(0, "loss"))
    assert guide.train_score_network(noisy(), views, measure=True)["score_gain"] == pytest.approx(1, abs=1e-5)


def test_the_random_shift_of_asd_is_the_same_for_all_views(prior):
    config = GuidanceConfig(method="asd", options={"asd": {"random": True}})
    later = build_guidance(prior, config, PROMPT).later(torch.full((4,), 900), generator(0, "shift"))
    assert later.unique().numel() == 1 and int(later[0]) > 900


def test_samples_are_the_views_of_an_orbit(prior):
    prior.observe(orbits().c2w)
    images = prior.sample([PROMPT, "a blue chair"], steps=2, generator=generator(0, "sample"))
    assert images.shape == (8, 3, 32, 32) and images.std() > 0


def test_what_does_not_fit_is_one_line(folder, prior):
    with pytest.raises(InputError, match="needs 4 views per step, or a multiple, got 3"):
        prior.observe(orbits().c2w[:3])
    with pytest.raises(InputError, match="must observe the cameras of its 4 views first"):
        load_prior(str(folder)).conditions(prior.embed([PROMPT] * 4))
    for views, orbit in ((4, False), (3, True)):
        stage = StageConfig(steps=1, views=views, cameras=CameraConfig(orbit=orbit))
        with pytest.raises(InputError, match="^nerf.cameras.orbit must be true .* nerf.views must be 4 or a multiple$"):
            check_views(stage, "nerf", 4)
        check_views(stage, "nerf", 1)
    with pytest.raises(InputError, match="more conditions than a text"):
        LatentDiffusion.load(str(folder))
