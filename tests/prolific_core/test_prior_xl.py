"""Stable Diffusion XL: the conditions of diffusers' own pipeline, and guidance by it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from prolific_core import cameras, memory
from prolific_core.config import CameraConfig, Config, GuidanceConfig, PriorConfig, ScoreConfig
from prolific_core.errors import InputError
from prolific_core.guidance.base import build_guidance
from prolific_core.prior import location
from prolific_core.prior.kinds import load_prior
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.latent_diffusion_xl import LatentDiffusionXL
from prolific_core.scenes.image import ImageScene
from prolific_core.seeding import generator
from tasks.runtime.project import models_of
from tests.support import tiny_pipeline, tiny_xl

PROMPT = "a red mug"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_xl.make(tmp_path_factory.mktemp("xl"))


@pytest.fixture
def prior(folder):
    return load_prior(str(folder))


def test_conditions_and_output_are_those_of_the_diffusers_pipeline(folder, prior):
    from diffusers import StableDiffusionXLPipeline

    assert type(prior) is LatentDiffusionXL
    pipeline = StableDiffusionXLPipeline.from_pretrained(str(folder))
    tokens, empty, pooled, empty_pooled = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=True)
    side = prior.resolution
    sizes = pipeline._get_add_time_ids((side, side), (0, 0), (side, side), torch.float32, tiny_xl.PROJECTION)
    made = prior.conditions(prior.embed([PROMPT, ""]))
    torch.testing.assert_close(made["encoder_hidden_states"], torch.cat([tokens, empty]))
    torch.testing.assert_close(made["added_cond_kwargs"]["text_embeds"], torch.cat([pooled, empty_pooled]))
    assert not empty.any() and tokens.any() and pooled.any()
    assert torch.equal(made["added_cond_kwargs"]["time_ids"], sizes.expand(2, -1))
    noisy, t = torch.randn(1, 4, 8, 8, generator=generator(0, "x")), torch.tensor([500])
    with torch.no_grad():
        added = {"text_embeds": pooled, "time_ids": sizes}
        expected = pipeline.unet(noisy, t, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
    torch.testing.assert_close(prior.predict_noise(noisy, t, prior.embed(PROMPT)), expected)


def test_an_empty_text_that_is_no_zeros_is_encoded(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "xl")
    index = json.loads((copy / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
    (copy / "model_index.json").write_text(json.dumps(index))
    assert load_prior(str(copy)).embed("").any()


@pytest.mark.parametrize("kind", ["lora", "unet"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vsd_starts_at_the_prior_and_learns(folder, dtype, kind):
    prior = load_prior(str(folder), dtype=dtype)
    score = ScoreConfig(kind=kind, learning_rate=1e-2, targets="all", channels=[16, 32], camera_dropout=0.0)
    config = GuidanceConfig(score=score, view_prompts="interpolated", combine="perp_neg")
    guide = build_guidance(prior, config, PROMPT, generator=generator(0, "score"))
    views = cameras.sample(2, CameraConfig(), generator(0, "cameras"))
    latents = torch.randn(2, 4, 8, 8, generator=generator(0, "latents"), requires_grad=True)
    guide.loss(latents, views, 0.5, generator(0, "loss")).backward()
    assert torch.isfinite(latents.grad).all() and latents.grad.any()
    steps = [guide.train_step(latents.detach(), views.c2w, generator(7, "same"), measure=True) for _ in range(12)]
    assert steps[-1]["score_loss"] < 0.95 * steps[0]["score_loss"]
    if kind == "lora":
        assert steps[0]["score_gain"] == pytest.approx(1, abs=2e-2 if dtype == "bfloat16" else 1e-5)
    amounts = memory.estimate(guide, [ImageScene(16)], views=2, side=16, pixel_bytes=24.0)
    assert amounts["activations"] > 0


def test_another_xl_model_as_base_keeps_only_its_unet(folder, tmp_path):
    base = tiny_xl.make(tmp_path / "base", prediction="v_prediction", seed=5)
    score = ScoreConfig(base=str(base), learning_rate=1e-2)
    guide = build_guidance(load_prior(str(folder)), GuidanceConfig(score=score), PROMPT, generator=generator(0, "s"))
    kept = guide.score.base
    assert kept.vae is kept.text_encoder is kept.text_encoder_2 is None
    views = cameras.sample(1, CameraConfig(), generator(0, "cameras"))
    metrics = guide.train_step(torch.zeros(1, 4, 8, 8), views.c2w, generator(0, "train"), measure=True)
    assert metrics["score_gain"] == pytest.approx(1, abs=1e-5)
    plain = ScoreConfig(base=str(tiny_pipeline.make(tmp_path / "plain")))
    with pytest.raises(
        InputError, match="^guidance.score.base: .*plain must be a model of the same kind as prior.path"
    ):
        build_guidance(load_prior(str(folder)), GuidanceConfig(score=plain), PROMPT, generator=generator(0, "s"))


def test_the_autoencoder_stays_in_float32_where_float16_would_overflow(folder):
    prior = load_prior(str(folder), dtype="float16")
    assert prior.vae.dtype == torch.float32 and prior.unet.dtype == torch.float16
    assert load_prior(str(folder), dtype="bfloat16").vae.dtype == torch.bfloat16


def test_kinds_are_told_apart(folder, tmp_path):
    plain = tiny_pipeline.make(tmp_path / "plain")
    assert (location.kind_of(str(folder)), location.kind_of(str(plain))) == ("xl", "sd")
    assert type(load_prior(str(plain))) is LatentDiffusion
    with pytest.raises(InputError, match="more conditions than a text; load it with load_prior"):
        LatentDiffusion.load(str(folder))
    refiner = shutil.copytree(folder, tmp_path / "refiner")
    index = json.loads((refiner / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    (refiner / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="is a StableDiffusionXLImg2ImgPipeline; supported are"):
        load_prior(str(refiner))


def test_a_stage_depends_on_both_text_encoders(folder):
    config = Config(prior=PriorConfig(path=str(folder)))
    models = models_of("nerf", Path(folder).parent, config)
    assert {Path(model).name for model in models} == {
        *("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
    }
