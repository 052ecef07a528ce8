"""Steps that are not finite are skipped and counted, and stop a run after several; checkpoints never hold them."""

import math

import pytest
import torch

from prolific_core import checkpoint
from prolific_core.config import GuidanceConfig, LoggingConfig, NerfConfig, ScoreConfig
from prolific_core.errors import ProlificError
from prolific_core.guidance import base
from prolific_core.nonfinite import LIMIT, NonFiniteSteps, is_finite, largest_gradient
from prolific_core.optimise import distil
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.scenes.image import ImageScene
from prolific_core.seeding import generator
from tests.support import tiny_pipeline
from tests.support.by_formula import draws, estimator

STEPS = 8


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return LatentDiffusion.load(str(tiny_pipeline.make(tmp_path_factory.mktemp("prior"))))


def run(prior, spoil, *, steps=STEPS, state_file=None, particles=1, **logging):
    """Distil images with a loss that `spoil(loss, latents, step)` replaces, and return them and what was observed."""
    config = GuidanceConfig(method="sds")
    guide = base.build_guidance(prior, config, "a red mug", generator=generator(0, "s"))
    loss_of = guide.loss

    def loss(latents, cameras, progress, random):
        return spoil(loss_of(latents, cameras, progress, random), latents, round(progress * steps) + 1)

    guide.loss = loss
    images = [ImageScene(32, generator=generator(0, k)) for k in range(particles)]
    seen = []

    def observe(step, metrics):
        seen.append((metrics, images[0].pixels.detach().clone()))

    stage = NerfConfig(steps=steps, resolution=[(0.0, 32)])
    distil(images, guide, stage, LoggingConfig(**logging), state_file=state_file, observe=observe, name="nerf")
    return images, seen


def infinite_loss(steps):
    return lambda loss, latents, step: loss * math.inf if step in steps else loss


def infinite_gradient(steps):
    """Keep the value of the loss, whose gradient is not a number in some steps."""
    return lambda loss, latents, step: loss + (latents.sum() * 0).abs().sqrt() if step in steps else loss


@pytest.mark.parametrize("fault", [infinite_loss, infinite_gradient])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(prior, fault):
    _, seen = run(prior, fault({3, 6}))
    assert [metrics.get("skipped_steps", 0) for metrics, _ in seen] == [0, 0, 1, 1, 1, 2, 2, 2]
    pixels = [pixels for _, pixels in seen]
    same = [torch.equal(a, b) for a, b in zip(pixels, pixels[1:])]
    assert same == [step in (3, 6) for step in range(2, STEPS + 1)]
    assert pixels[-1].isfinite().all()


def test_several_steps_in_a_row_stop_the_run(prior):
    run(prior, infinite_loss(set(range(2, 1 + LIMIT))))  # one fewer than the limit
    with pytest.raises(ProlificError, match=f"^nerf: particle 0: .* not a number in {LIMIT} steps in a row; lower the"):
        run(prior, infinite_loss(set(range(2, 2 + LIMIT))))


def test_a_bad_particle_stops_the_run_although_others_are_sound(prior):
    chosen = [int(torch.randint(2, (1,), generator=generator(0, "nerf", step, "particle"))) for step in range(40)]
    bad = {step + 1 for step in range(40) if chosen[step] == 1}
    with pytest.raises(ProlificError, match="nerf: particle 1: "):
        run(prior, infinite_loss(bad), steps=40, particles=2)


def test_no_checkpoint_holds_values_that_are_not_finite(prior, tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    original = torch.optim.Adam.step
    steps = []

    def broken(self, *arguments):
        original(self, *arguments)
        steps.append(self)
        if len(steps) == 4:
            self.state[self.param_groups[0]["params"][0]]["exp_avg"][0, 0, 0, 0] = math.inf

    monkeypatch.setattr(torch.optim.Adam, "step", broken)
    with pytest.raises(ProlificError, match="the state of step 4 holds values that are not a number and is not saved"):
        run(prior, infinite_loss(set()), state_file=file, checkpoint_every=2)
    state = checkpoint.load(file)
    assert state["step"] == 2 and is_finite(state)


def test_a_resumed_run_keeps_its_count(prior, tmp_path):
    file = tmp_path / "state.safetensors"
    with pytest.raises(ProlificError):
        run(prior, infinite_loss({2, *range(5, 99)}), steps=20, state_file=file, checkpoint_every=4)
    assert checkpoint.load(file)["skipped"] == [5]  # step 2 and steps 5 to 8
    _, seen = run(prior, infinite_loss(set()), steps=20, state_file=file, checkpoint_every=4)
    assert {metrics["skipped_steps"] for metrics, _ in seen} == {5} and len(seen) == 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_score_network_survives_a_step_that_is_not_finite(prior, dtype, tmp_path):
    prior = LatentDiffusion.load(str(tiny_pipeline.make(tmp_path)), dtype=str(dtype).removeprefix("torch."))
    latents, _, _, views = draws(2, torch.float32)
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2))
    guide.train_step(latents, views.c2w, generator(0, "t"))
    before = {name: value.clone() for name, value in guide.score.trainable_state().items()}
    spoiled = latents.clone()
    spoiled[0, 0, 0, 0] = math.inf
    metrics = guide.train_step(spoiled, views.c2w, generator(1, "t"))
    assert metrics["score_skipped_steps"] == 1 and guide.trained == 1
    assert all(torch.equal(before[name], value) for name, value in guide.score.trainable_state().items())
    metrics = guide.train_step(latents, views.c2w, generator(2, "t"))
    assert metrics["score_skipped_steps"] == 1 and math.isfinite(metrics["score_loss"]) and guide.trained == 2
    assert is_finite(guide.state_dict())
    with pytest.raises(ProlificError, match="^the score network: .*; lower guidance.score.learning_rate, or set prior"):
        for k in range(LIMIT):
            guide.train_step(spoiled, views.c2w, generator(k, "t"))


def test_values_are_finite_or_not():
    assert is_finite({"a": [torch.ones(2), (torch.tensor(3), None, "x")], 1: 2.0})
    assert not is_finite({"a": [torch.ones(2), {"b": torch.tensor([1.0, math.nan])}]})
    assert is_finite({})
    counter = NonFiniteSteps("x", "y")
    assert not counter.must_skip([1.0, 2.0]) and counter.must_skip([1.0, math.inf]) and counter.total == 1
    weight = torch.nn.Parameter(torch.ones(2))
    unused = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, -3.0])
    assert largest_gradient([weight, unused]) == 3
    weight.grad[0] = math.nan
    assert largest_gradient([weight]).isnan()
