"""CSD, Perp-Neg, rescaled CFG, guidance interval, view-dependent prompting and schedules against their formulas."""

import math

import pytest
import torch

from prolific_core import cameras, config, config_layers, discovery
from prolific_core.config import TimeConfig
from prolific_core.errors import InputError
from prolific_core.guidance import timesteps, view_prompts
from prolific_core.guidance.combine import perp_neg
from prolific_core.seeding import generator
from tests.support import by_formula, tiny_pipeline
from tests.support.by_formula import PROMPT, draws, estimator

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def prior(request, tmp_path_factory):
    return by_formula.load(tiny_pipeline.make(tmp_path_factory.mktemp("prior"), prediction=request.param))


def looking(azimuth, elevation):
    """Return cameras at angles in degrees."""
    a, e = (torch.tensor([math.radians(x) for x in values]) for values in (azimuth, elevation))
    return cameras.from_angles(a, e, torch.ones(len(a)), torch.ones(len(a)))


def of(prior, text, noisy, t):
    return by_formula.eps(prior, noisy, t, prior.embed([text] * len(t)))


def gradient(prior, guide, latents, t, noise, views):
    """Return the gradient of the guidance without its weight w(t)."""
    return guide.gradient(latents, views, t, noise) / (1 - by_formula.alpha_bar(prior, t))


@pytest.mark.parametrize(("negative", "scale"), [("", 0.0), ("a blue chair", None), ("a blue chair", 2.0)])
def test_csd_is_its_formula(prior, negative, scale):
    latents, noise, t, _ = draws(2)
    eyes = looking([0, 90], [10, 10])
    noisy = by_formula.noised(prior, latents, noise, t)
    wanted = by_formula.eps(prior, noisy, t, prior.embed([f"{PROMPT}, front view", f"{PROMPT}, side view"]))
    none, against = of(prior, "", noisy, t), of(prior, negative, noisy, t)
    w2 = 7.5 if scale is None else scale
    expected = 7.5 * (wanted - none) + w2 * (none - against)
    options = {"csd": {"negative_scale": scale}}
    guide = estimator(prior, method="csd", negative_prompt=negative, options=options)
    torch.testing.assert_close(gradient(prior, guide, latents, t, noise, eyes), expected, **EXACT)


def test_perp_neg_is_its_formula(prior):
    latents, noise, t, _ = draws(4)
    eyes = looking([-30, 135, 10, 200], [0, 20, 75, -10])
    noisy = by_formula.noised(prior, latents, noise, t)
    names = ("front view", "side view", "back view", "overhead view")
    front, side, back, overhead = (prior.embed([f"{PROMPT}, {name}"]) for name in names)

    def f(r, a, b, c):
        return a * math.exp(-b * r) + c

    fs, sb, fsb = (4, 0.5, -2.426), (1, 0.5, -0.606), (1, 0.5, 0.967)
    back_r = 2 - 160 / 90  # 200 degrees is 160 from the front
    cases = [
        (2 / 3 * front + 1 / 3 * side, [(front, f(2 / 3, *fs)), (side, f(1 / 3, *fs))]),
        (0.5 * side + 0.5 * back, [(side, f(0.5, *sb)), (front, f(0.5, *fsb))]),
        (overhead, []),
        (back_r * side + (1 - back_r) * back, [(side, f(back_r, *sb)), (front, f(back_r, *fsb))]),
    ]
    rows = []
    for i, (text, negatives) in enumerate(cases):
        x, time = noisy[i : i + 1], t[i : i + 1]
        none = of(prior, "", x, time)
        main = by_formula.eps(prior, x, time, text.double()) - none
        total = main.clone()
        for negative, weight in negatives:
            d = by_formula.eps(prior, x, time, negative) - none
            total -= weight * (d - (d * main).sum() / (main * main).sum() * main)
        rows.append(none + 7.5 * total - noise[i : i + 1])
    guide = estimator(prior, method="sds", combine="perp_neg")
    torch.testing.assert_close(gradient(prior, guide, latents, t, noise, eyes), torch.cat(rows), **EXACT)


def test_perp_negs_weights_vanish_where_they_should():
    _, weights = perp_neg.negatives(looking([0, 90, 180, 40], [0, 0, 0, 80]))
    assert (weights <= 1e-3).all() and (weights[3] == 0).all()
    assert weights[0, 0] == pytest.approx(0, abs=1e-3)  # from the front, "front" is no negative
    assert weights[1, 0] == pytest.approx(0, abs=1e-3)  # nor "side" from the side
    assert weights[2, 1] < -1.5  # from behind, "front" is a strong one


def test_a_perpendicular_part_is_perpendicular():
    g = generator(0, "x")
    x, to = torch.randn(3, 4, 8, 8, generator=g), torch.randn(3, 4, 8, 8, generator=g)
    part = perp_neg.perpendicular(x, to)
    assert (part * to).sum((1, 2, 3)).abs().max() < 1e-3 and torch.equal(perp_neg.perpendicular(x, 0 * to), x)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale_is_that_of_diffusers_on_the_networks_output(prior, phi):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        rescale_noise_cfg,
    )

    latents, noise, t, _ = draws(2)
    eyes = looking([0, 0], [0, 0])
    noisy, a = by_formula.noised(prior, latents, noise, t), by_formula.alpha_bar(prior, t)

    def raw(text):
        rows = zip(noisy, t, prior.embed([text] * 2), strict=True)
        with torch.no_grad():
            return torch.cat([prior.unet(x[None], s, encoder_hidden_states=e[None]).sample for x, s, e in rows])

    positive, none = raw(f"{PROMPT}, front view"), raw("")
    out = rescale_noise_cfg(none + 7.5 * (positive - none), positive, phi)
    eps = out if prior.scheduler.config.prediction_type == "epsilon" else a.sqrt() * out + (1 - a).sqrt() * noisy
    guide = estimator(prior, method="sds", combine="rescale", rescale=phi)
    torch.testing.assert_close(gradient(prior, guide, latents, t, noise, eyes), eps - noise, **EXACT)


def test_outside_of_the_interval_only_the_conditional_is_evaluated(prior, monkeypatch):
    latents, noise, t, eyes = draws(4)  # t = 100, 900, 20, 500
    guide, full, plain = (
        estimator(prior, method="sds", scale=scale, interval=interval)
        for scale, interval in ((7.5, (0.1, 0.5)), (7.5, None), (1.0, None))
    )
    rows = []
    predict = type(prior).predict_noise
    monkeypatch.setattr(
        type(prior), "predict_noise", lambda self, x, *rest: rows.append(len(x)) or predict(self, x, *rest)
    )
    got = guide.gradient(latents, eyes, t, noise)
    assert sum(rows) == 6  # two rows for 100 and 500, one for 900 and 20
    everywhere, nowhere = full.gradient(latents, eyes, t, noise), plain.gradient(latents, eyes, t, noise)
    torch.testing.assert_close(got[[0, 3]], everywhere[[0, 3]], **EXACT)
    torch.testing.assert_close(got[[1, 2]], nowhere[[1, 2]], **EXACT)


def test_interpolated_view_prompts_mix_embeddings_by_azimuth(prior):
    eyes = looking([0, 45, -90, 150, 10], [0, 0, 59, 0, 61])
    mixed = view_prompts.interpolated(prior, PROMPT, eyes)
    front, side, back, overhead = (
        prior.embed([f"{PROMPT}, {name} view"])[0] for name in ("front", "side", "back", "overhead")
    )
    expected = torch.stack([front, (front + side) / 2, side, side / 3 + back * 2 / 3, overhead])
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(estimator(prior, view_prompts="interpolated", method="sds").embed_views(eyes), mixed)


def test_precise_view_prompts_name_side_and_height(prior):
    eyes = cameras.orbit(8, elevation=20, distance=1.4, fov=45)
    embedded = estimator(prior, view_prompts="precise", method="sds").embed_views(eyes)
    words = cameras.precise_view_prompts(eyes)
    assert torch.equal(embedded, prior.embed([f"{PROMPT}, {word}" for word in words])) and len(set(words)) == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "sds", "combine": "perp_neg", "view_prompts": False}, "guidance.combine = 'perp_neg'"),
        ({"method": "csd", "combine": "rescale"}, "guidance.combine: must not be set with method 'csd'"),
        ({"method": "csd", "interval": (0.1, 0.5)}, "guidance.interval: must not be set with method 'csd'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(prior, options, said):
    with pytest.raises(InputError) as caught:
        estimator(prior, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "names"), [("method", discovery.guidance_methods), ("combine", discovery.score_compositions)]
)
def test_unknown_names_of_files_are_refused_with_the_known_ones(key, names):
    with pytest.raises(InputError) as caught:
        config_layers.resolve(("params.yaml", {"nerf": {"guidance": {key: "magic"}}}))
    assert str(caught.value) == f"params.yaml: nerf.guidance.{key} = 'magic': must be one of {', '.join(names())}"


def test_time_schedules():
    def upper(anneal, *progress, **values):
        return [timesteps.upper_bound(TimeConfig(anneal=anneal, **values), p) for p in progress]

    assert upper("step", 0, 0.19, 0.2, 1, switch_at=0.2, final=0.5) == [0.98, 0.98, 0.5, 0.5]
    assert upper("none", 0, 0.5, 1) == [0.98] * 3
    assert upper("sqrt", 0, 0.25, 1, final=0.3) == pytest.approx([0.98, 0.64, 0.3])
    assert upper("linear", 0, 0.25, 1, final=0.3) == pytest.approx([0.98, 0.81, 0.3])
    assert upper("cosine", 0, 1 / 3, 0.5, 1, final=0.3) == pytest.approx([0.98, 0.81, 0.64, 0.3])
    t = timesteps.sample_times(
        10_000, TimeConfig(anneal="step", switch_at=0.2, final=0.5), 0.5, 1000, generator(0, "t")
    )
    assert t.min() >= 20 and t.max() < 500 and abs(t.float().mean() - 260) < 5


def test_weights_by_name():
    alpha_bar = torch.tensor([0.25, 0.81])
    expected = {
        "one_minus_alpha_bar": [0.75, 0.19],
        "uniform": [1.0, 1.0],
        "alpha_sigma_squared": [0.375, 0.171],
        "sigma_over_alpha": [3**0.5, (19 / 81) ** 0.5],
    }
    for name, values in expected.items():
        assert timesteps.weight(name, alpha_bar).tolist() == pytest.approx(values)
        assert config.GuidanceConfig(weighting=name).weighting == name
    assert expected.keys() == timesteps.WEIGHTS.keys()
