"""The counted U-Net evaluations of a step are those of the formulas."""

import pytest
import torch

from prolific_core.guidance.cost import evaluations_per_step
from tests.support import by_formula, tiny_pipeline
from tests.support.by_formula import draws, estimator


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return by_formula.load(tiny_pipeline.make(tmp_path_factory.mktemp("prior")))


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("sds", {}, 2),
        ("sds", {"scale": 1.0}, 1),
        ("sds", {"combine": "perp_neg"}, 4),
        ("csd", {}, 2),
        ("nfsd", {}, 2),
        ("nfsd", {"negative_prompt": "a chair"}, 3),
        ("asd", {}, 2 + 1),
        ("vsd", {}, 2 + 1 + 3),  # the training step of the score network counts as three
        ("vsd", {"score": {"share_pass": True}}, 2 + 3),
        ("esd", {}, 2 + 2 + 3),
        # One inversion step, one score at s, and two texts at t.
        ("ism", {"options": {"ism": {"stride": 1.0}}}, 1 + 1 + 2),
        # At t = 0.5 T, an inversion in steps of a quarter takes two steps with two texts each.
        ("sdi", {"options": {"sdi": {"inversion_steps": 4}}, "time": {"maximum": 0.5, "anneal": "none"}}, 2 * 2 + 2),
    ],
)
def test_evaluations_per_step(prior, method, options, expected):
    latents, _, _, views = draws(2)
    config = type(estimator(prior, method="sds").config).model_validate({"method": method, **options})
    guide = estimator(prior, **{name: getattr(config, name) for name in config.model_fields_set})
    assert evaluations_per_step(guide, latents, views, samples=4) == expected
    assert not prior.unet._forward_hooks and torch.is_grad_enabled()
