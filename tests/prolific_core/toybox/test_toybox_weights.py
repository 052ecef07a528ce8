"""The packaged weights load with the classes of diffusers and transformers, and samples show what the prompt says."""

import warnings

import pytest

from prolific_core.toybox.params import WEIGHTS

pytestmark = pytest.mark.skipif(not (WEIGHTS / "model_index.json").exists(), reason="the Toybox weights are not here")


@pytest.fixture(scope="module")
def pipeline():
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(WEIGHTS, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_layout_and_size(pipeline):
    import torch

    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.unet.config.sample_size == 16 and pipeline.vae.config.latent_channels == 6
    for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) <= 32e6
    assert pipeline.tokenizer.model_max_length == 32


def classified(pipeline, prompt: str):
    """Return the families and colours that the classifier finds in eight samples at CFG 3."""
    import torch

    from prolific_core.toybox.evaluation.classifier import load_classifier

    images = pipeline(
        [prompt] * 8,
        num_inference_steps=20,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert images.shape == (8, 3, 64, 64)
    seen = load_classifier().classify(images.float())
    return [seen.names["family"][i] for i in seen.family], [seen.names["colour"][i] for i in seen.colour]


@pytest.mark.parametrize("prompt", ["a red mushroom", "a green cone", "a red mug"])
def test_samples_are_what_the_prompt_says(pipeline, prompt):
    _, colour, family = prompt.split()
    families, colours = classified(pipeline, prompt)
    assert families.count(family) >= 5, families
    assert colours.count(colour) >= 6, colours


def test_autoencoder_reconstructs():
    import torch
    from diffusers import AutoencoderKL

    from prolific_core.toybox.training.autoencoder import evaluate
    from prolific_core.toybox.training.shards import heldout_images

    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae").eval()
    images, _ = heldout_images(count=32)
    assert evaluate(vae, images) > 27


def test_the_classifier_is_right_on_true_renders():
    from prolific_core.toybox.evaluation.answers import right_answers, right_relations
    from prolific_core.toybox.evaluation.classifier import load_classifier
    from prolific_core.toybox.evaluation.groups import group

    classifier, single, pairs = load_classifier(), group("heldout", 128, seed=3), group("pairs", 128, seed=3)
    right = right_answers(classifier, single.truth, single.labels)
    assert right["family"] > 0.9 and right["colour"] > 0.9 and right["view"] > 0.75
    assert right_relations(classifier, pairs.truth, pairs.labels)["relation"] > 0.8


def test_the_check_has_every_number():
    import math

    from flows.cli.prior import table
    from prolific_core.toybox.evaluation.check import GOALS, measure

    shown = []
    numbers = measure(count=40, steps=4, references=256, seeds=1, show=shown.append)
    assert shown[0].shape == (18 * 2 * 8, 3, 64, 64)
    assert all(math.isfinite(numbers[name]) for name in GOALS)
    assert numbers["samples"] == 40 and 0.5 < numbers["nearest_neighbour_ratio"] < 3
    assert numbers["unet_gflop"] < 0.6 and numbers["vae_encode_gflop"] < 0.3 and numbers["size_mb"] < 32
    assert numbers["frechet_ratio_of_autoencoder"] < numbers["frechet_ratio"]
    lines = table(numbers).splitlines()
    assert (
        all(len(line) <= 80 for line in lines) and sum("not reached" in line for line in lines) >= 1
    )  # four steps blur


def test_scorer_retrieves():
    from transformers import CLIPModel, CLIPTokenizer

    from prolific_core.toybox.training.scorer import retrieval
    from prolific_core.toybox.training.shards import heldout_images

    model = CLIPModel.from_pretrained(WEIGHTS / "scorer").eval()
    tok = CLIPTokenizer.from_pretrained(WEIGHTS / "scorer")
    images, labels = heldout_images(count=96)
    assert retrieval(model, tok, images, labels) > 0.8  # chance is 1 in 32


def test_samples_are_made_without_a_word_too_many(tmp_path):
    import subprocess
    import sys

    from PIL import Image

    out = tmp_path / "mugs.png"
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "prior",
        "sample",
        "a red mug",
        "-n",
        "2",
        "--steps",
        "2",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "loading the prior\nsampling 2 images\n", done.stderr
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    with Image.open(out) as image:
        assert image.size == (128, 64)
