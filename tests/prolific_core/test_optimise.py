"""The loop trains, resumes to the same bytes, and its checkpoints are whole or refused."""

from contextlib import suppress

import pytest
import torch

from prolific_core import checkpoint
from prolific_core.config import GuidanceConfig, LoggingConfig, NerfConfig, ScoreConfig
from prolific_core.errors import ProlificError
from prolific_core.guidance import base
from prolific_core.optimise import distil, rate_at, resolution_at
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.scenes.image import ImageScene
from prolific_core.seeding import generator
from tests.support import tiny_pipeline

LOGGING = LoggingConfig(checkpoint_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_pipeline.make(tmp_path_factory.mktemp("prior")))


class Killed(Exception):
    pass


def run(folder, tmp_path, *, steps=6, kill_at=None, method="vsd", particles=2, final=1.0, resumed=None):
    prior = LatentDiffusion.load(folder)
    guidance = base.build_guidance(
        prior,
        GuidanceConfig(method=method, score=ScoreConfig(learning_rate=1e-2)),
        "a red mug",
        generator=generator(0, "s"),
    )
    images = [ImageScene(32, learning_rate=0.05, generator=generator(0, i)) for i in range(particles)]
    config = NerfConfig(steps=steps, resolution=[(0.0, 32)], learning_rate_final=final)
    seen = []

    def observe(step, metrics):
        seen.append((step, metrics["loss"]))
        if step == kill_at:
            raise Killed

    with suppress(Killed):
        distil(
            images,
            guidance,
            config,
            LOGGING,
            seed=3,
            name="nerf",
            state_file=tmp_path / "s.safetensors",
            resume=resumed.append if resumed is not None else None,
            observe=observe,
        )
    return images, seen


@pytest.mark.parametrize("final", [1.0, 0.1])
def test_a_killed_run_resumes_to_the_same_bytes(folder, tmp_path, final):
    whole, seen = run(folder, tmp_path / "whole", final=final)
    first, before = run(folder, tmp_path / "cut", kill_at=5, final=final)
    assert not torch.equal(first[0].pixels, whole[0].pixels) or not torch.equal(first[1].pixels, whole[1].pixels)
    resumed = []
    again, after = run(folder, tmp_path / "cut", final=final, resumed=resumed)
    assert resumed == [4] and [step for step, _ in after] == [5, 6]  # from the checkpoint of step 4 to the last step
    assert before[:4] + after == seen
    for a, b in zip(whole, again, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert a.pixels.grad is None  # only one particle at a time holds gradients


@pytest.mark.parametrize("patch", [None, 300])
def test_a_killed_field_resumes_to_the_same_bytes(folder, tmp_path, patch):
    """The occupancy grid, importance samples, density noise and patches are part of the state."""
    from prolific_core.config import FieldConfig
    from prolific_core.scenes.radiance_field import RadianceField

    small = FieldConfig(
        levels=2,
        log2_entries=10,
        base_resolution=4,
        max_resolution=8,
        hidden_width=8,
        samples_per_ray=24,
        importance_samples=4,
        occupancy_resolution=8,
    )

    def run(where, kill_at=None):
        guidance = base.build_guidance(
            LatentDiffusion.load(folder),
            GuidanceConfig(score=ScoreConfig(learning_rate=1e-2)),
            "a red mug",
            generator=generator(0, "s"),
        )
        config = NerfConfig(steps=7, resolution=[(0.0, 32)], patch=patch)
        fields = [RadianceField(small, generator(0, "field", k), train_config=config) for k in range(2)]

        def observe(step, metrics):
            if step == kill_at:
                raise Killed

        with suppress(Killed):
            distil(
                fields,
                guidance,
                config,
                LOGGING,
                seed=3,
                name="nerf",
                state_file=where / "s.safetensors",
                observe=observe,
            )
        return [field.state_dict() for field in fields]

    whole, cut = run(tmp_path / "whole"), run(tmp_path / "cut", kill_at=5)
    assert any(not torch.equal(a, b) for a, b in zip(whole[0].values(), cut[0].values(), strict=True))
    for a, b in zip(whole, run(tmp_path / "cut"), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_learning_rates_fall_to_their_final_fraction(folder, tmp_path):
    assert rate_at(0.1, 0) == 1 and rate_at(0.1, 1) == pytest.approx(0.1) and rate_at(0.1, 0.5) == pytest.approx(0.55)
    start = ImageScene(32, generator=generator(0, 0)).pixels.detach()
    moved = {
        final: (
            run(folder, tmp_path / str(final), steps=8, method="sds", particles=1, final=final)[0][0].pixels - start
        )
        .abs()
        .max()
        for final in (1.0, 0.0)
    }
    assert moved[0.0] < 0.75 * moved[1.0] and moved[0.0] > 0.1  # half the sum of the rates


def test_seeds_and_particles_differ(folder, tmp_path):
    images, _ = run(folder, tmp_path, steps=8)
    assert (images[0].pixels - images[1].pixels).abs().max() > 0.1


def test_checkpoint_keeps_nested_state(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "a": [shared, shared.view(2, 3), shared[2:4]],
        3: {"x": None, "y": True, "z": 0.1},
        "t": torch.tensor(2, dtype=torch.int64),
    }
    checkpoint.save(tmp_path / "c", state)
    (tmp_path / "other").touch()
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "other").stat().st_mode
    back = checkpoint.load(tmp_path / "c")
    assert torch.equal(back["a"][1], shared.view(2, 3)) and back["a"][2].tolist() == [2.0, 3.0]
    assert back[3] == state[3] and back["t"].dtype == torch.int64


def test_a_checkpoint_is_written_from_where_its_tensors_lie():
    own, shared = torch.arange(6.0), torch.arange(4.0)
    tensors = {"own": own, "view": shared[1:], "again": own}
    checkpoint._separate(tensors)
    assert tensors["own"] is own and tensors["view"].tolist() == [1.0, 2.0, 3.0]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 3


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, fraction):
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"x": torch.randn(100)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(ProlificError, match="state.safetensors is not an intact checkpoint"):
        checkpoint.load(path)


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed(tmp_path):
    path = tmp_path / "state.safetensors"
    state = {
        "x": torch.randn(5),
        "flag": torch.tensor(True),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.ones(0),
    }
    checkpoint.save(path, {**state, "step": 300, "text": "é"})
    data = path.read_bytes()
    assert checkpoint.load(path)["step"] == 300
    for k in range(len(data)):
        flipped = bytearray(data)
        flipped[k] ^= 1 << k % 8
        path.write_bytes(flipped)
        assert not checkpoint.is_intact(path), k
    path.unlink()
    path.mkdir()
    with pytest.raises(ProlificError, match="not an intact checkpoint"):
        checkpoint.load(path)


def test_a_loss_that_is_no_number_stops_the_run(folder, tmp_path):
    prior = LatentDiffusion.load(folder)
    guidance = base.build_guidance(prior, GuidanceConfig(method="sds"), "a red mug", generator=generator(0, "s"))
    image = ImageScene(32, generator=generator(0, 0))
    with torch.no_grad():
        image.pixels[0, 0, 0, 0] = float("nan")
    config = NerfConfig(steps=2, resolution=[(0.0, 32)])
    with pytest.raises(ProlificError, match="not a number at step 1"):
        distil([image], guidance, config, state_file=tmp_path / "s")


def test_resolution_schedule():
    schedule = [(0.0, 64), (0.2, 512)]
    assert [resolution_at(schedule, p) for p in (0, 0.19, 0.2, 0.99)] == [64, 64, 512, 512]


def test_a_checkpoint_is_written_after_its_preview(folder, tmp_path):
    """A run that resumes from it does not repeat the step."""
    guidance = base.build_guidance(
        LatentDiffusion.load(folder), GuidanceConfig(method="sds"), "a red mug", generator=generator(0, "s")
    )

    def preview(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(
            [ImageScene(32, generator=generator(0, 0))],
            guidance,
            NerfConfig(steps=3, resolution=[(0.0, 32)]),
            LoggingConfig(checkpoint_every=1),
            state_file=tmp_path / "s",
            preview=preview,
            preview_at=[1],
        )
    assert not (tmp_path / "s").exists()


def test_previews_have_their_own_interval(folder, tmp_path):
    prior = LatentDiffusion.load(folder)
    guidance = base.build_guidance(prior, GuidanceConfig(method="sds"), "a red mug", generator=generator(0, "s"))
    observed, previewed = [], []
    timer = distil(
        [ImageScene(32, generator=generator(0, 0))],
        guidance,
        NerfConfig(steps=7, resolution=[(0.0, 32)]),
        LoggingConfig(preview_every=3, checkpoint_every=2),
        state_file=tmp_path / "s",
        observe=lambda step, _: observed.append(step),
        preview=previewed.append,
        preview_at=[5],
    )
    assert observed == [1, 2, 3, 4, 5, 6, 7] and previewed == [3, 5, 6, 7]
    assert sum(timer.fractions().values()) == pytest.approx(1)
    assert {"checkpoints", "logging", "previews"} < timer.fractions().keys()
