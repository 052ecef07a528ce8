"""Every guidance method, found by its file: its gradient against its formula, and what all methods have in common."""

import ast
import copy
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prolific_core import config_layers, discovery
from prolific_core.config import GuidanceConfig, ScoreConfig, TimeConfig
from prolific_core.errors import InputError
from prolific_core.guidance import base, timesteps
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from tasks.runtime.imports import module_file
from tests.support import by_formula, formulas, tiny_pipeline
from tests.support.by_formula import draws, estimator
from tests.support.imports import modules

ROOT = Path(__file__).parents[3]

METHODS = discovery.guidance_methods()
EXACT = {"rtol": 1e-6, "atol": 1e-6}
# A method with a score network has a test of its own, because its formula needs the trained network.
FORMULAS = [name for name in METHODS if hasattr(formulas, name)]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return tiny_pipeline.make(tmp_path_factory.mktemp("prior"), prediction=request.param)


@pytest.fixture(scope="module")
def prior(folder):
    return by_formula.load(folder)


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("method", FORMULAS)
def test_a_gradient_is_its_formula(prior, method, scale):
    latents, noise, t, views = draws(4)
    guide = estimator(prior, method=method, scale=scale, **formulas.OPTIONS.get(method, {}))
    expected = getattr(formulas, method)(prior, latents, noise, t, views, scale)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(guide.gradient(latents, views, t, noise), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("marginal", [0.0, 0.5, 1.0])
def test_esd_mixes_the_scores_with_and_without_the_camera(prior, marginal, scale):
    score = ScoreConfig(learning_rate=1e-2, targets="all", camera_dropout=0.3)
    guide = estimator(prior, method="esd", scale=scale, score=score, options={"esd": {"marginal": marginal}})
    latents, noise, t, views = draws(4)
    for k in range(5):
        guide.train_step(latents, views.c2w.double(), generator(k, "train"))
    noisy, state = by_formula.noised(prior, latents, noise, t), guide.score.trainable_state()
    without = {name: torch.zeros_like(value) if "camera.last" in name else value for name, value in state.items()}
    of_camera, of_all = (by_formula.score(prior, s, noisy, t, views) for s in (state, without))
    assert (of_camera - of_all).abs().max() > 1e-3
    eps_q = (1 - marginal) * of_camera + marginal * of_all
    expected = (1 - by_formula.alpha_bar(prior, t)) * (by_formula.guided(prior, noisy, t, views, scale) - eps_q)
    torch.testing.assert_close(guide.gradient(latents, views, t, noise), expected, **EXACT)


def test_the_bridge_is_sds_until_its_start(prior):
    latents, noise, t, views = draws()
    bridge, sds = (estimator(prior, method=method, time=TimeConfig(anneal="none")) for method in ("bridge", "sds"))
    for progress, same in ((0.79, True), (0.8, False)):
        losses = [guide.loss(latents, views, progress, generator(0, "loss")) for guide in (bridge, sds)]
        assert torch.equal(*losses) == same


def test_asd_shifts_time_and_stays_inside_the_schedule(prior):
    t = torch.tensor([0, 20, 100, 500, 980, 999])
    later = estimator(prior, method="asd").later
    assert later(t).tolist() == [0, 20, 108, 548, 999, 999]
    random = estimator(prior, method="asd", options={"asd": {"random": True}}).later
    drawn = torch.stack([random(t, generator(k, "t")) for k in range(64)])
    assert (drawn >= t).all() and (drawn <= later(t)).all() and drawn[:, 3].unique().numel() > 20


def test_sdi_anneals_its_time(prior):
    time = TimeConfig(anneal="linear", maximum=0.9, final=0.3)
    guide = estimator(prior, method="sdi", time=time)
    assert [guide.sample_times(2, p).tolist() for p in (0.0, 0.5, 1.0)] == [[900, 900], [600, 600], [300, 300]]
    free = estimator(prior, method="sdi", time=time, options={"sdi": {"annealed": False}})
    expected = timesteps.sample_times(8, time, 0.5, 1000, generator(0, "t"))
    assert torch.equal(free.sample_times(8, 0.5, generator(0, "t")), expected)


def test_clipping_limits_the_guided_score_and_rises_over_the_run(prior):
    latents, noise, t, views = draws(4)
    clip = estimator(prior, method="sds", combine="clip", scale=100.0, options={"clip": {"start": 1.0, "end": 3.0}})
    full = estimator(prior, method="sds", scale=100.0)
    noisy = by_formula.noised(prior, latents, noise, t)
    expected = by_formula.guided(prior, noisy, t, views, 100.0)
    for progress, threshold in ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0)):
        clip.progress = progress
        got = clip.pretrained(noisy, t, views)
        torch.testing.assert_close(got, expected.clip(-threshold, threshold), **EXACT)
        assert got.abs().max() == threshold
    assert full.pretrained(noisy, t, views).abs().max() > 3


# What all methods have in common


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_repeatable_finite_and_leaves_the_prior_alone(folder, method):
    prior = LatentDiffusion.load(str(folder))
    latents, _, _, views = draws(2, torch.float32)
    before = {name: p.clone() for name, p in prior.state_dict().items()}
    gradients = []
    for _ in range(2):
        guide, x = estimator(prior, method=method), latents.clone().requires_grad_()
        for k in range(3):
            guide.loss(x, views, k / 3, generator(k, "guidance")).backward()
            guide.train_score_network(x, views, lambda purpose, k=k: generator(k, purpose))
        gradients.append(x.grad)
    assert torch.equal(*gradients) and gradients[0].isfinite().all() and gradients[0].abs().max() > 1e-3
    assert all(torch.equal(before[name], p) for name, p in prior.state_dict().items())
    assert not any(parameter.requires_grad for parameter in prior.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_has_the_gradient_over_the_batch_size(prior, method):
    latents, _, _, views = draws(3)
    guide, x = estimator(prior, method=method), latents.clone().requires_grad_()
    guide.loss(x, views, 0.5, generator(3, "loss")).backward()
    g = generator(3, "loss")
    t = guide.sample_times(3, 0.5, g)
    noise = torch.randn(x.shape, generator=g).double()
    torch.testing.assert_close(x.grad, guide.gradient(x, views, t, noise, g) / 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_method_continues_with_the_same_gradients(folder, method):
    prior = LatentDiffusion.load(str(folder))
    latents, noise, t, views = draws(2, torch.float32)
    score = ScoreConfig(learning_rate=1e-2)
    first, second = (estimator(prior, method=method, score=score) for _ in range(2))
    first.train_score_network(latents, views, lambda purpose: generator(0, purpose))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for guide in (first, second):
        guide.train_score_network(latents, views, lambda purpose: generator(1, purpose))
    assert torch.equal(*(guide.gradient(latents, views, t, noise) for guide in (first, second)))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_cites_its_paper_and_states_its_options(method):
    module = importlib.import_module(f"prolific_core.guidance.{method}")
    assert "arXiv " in module.__doc__
    assert issubclass(base.method_class(method), base.Guidance)
    options = discovery.options(method)
    if options is not None:
        options()  # every option has a default
        source = inspect.getsource(options).splitlines()
        for name in options.model_fields:
            line = next(k for k, text in enumerate(source) if text.strip().startswith(f"{name}:"))
            assert "#" in source[line] or "#" in source[line - 1], f"{method}.{name} has no comment"


@pytest.mark.parametrize("method", METHODS)
def test_fields_that_a_method_does_not_use_are_refused(prior, method):
    values = {"combine": "rescale", "interval": (0.1, 0.5), "weighting": "uniform"}
    unused = estimator(prior, method=method).unused
    for name, value in values.items():
        if name in unused:
            with pytest.raises(InputError, match=f"guidance.{name}: must not be set with method '{method}'"):
                estimator(prior, method=method, **{name: value})
        else:
            estimator(prior, method=method, **{name: value})


# Discovery and options


def test_methods_are_found_without_importing_torch():
    code = (
        "import sys; from prolific_core import discovery, config_layers\n"
        "config_layers.resolve(('params.yaml', {'nerf': {'guidance': {'method': 'ism'}}}))\n"
        "assert 'torch' not in sys.modules; print(*discovery.guidance_methods())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == METHODS


def test_a_new_method_is_one_file(monkeypatch, tmp_path):
    (tmp_path / "combine").mkdir()
    (tmp_path / "first.py").write_text("from x import Guidance\n\n\nclass First(Guidance):\n    pass\n")
    (tmp_path / "second.py").write_text("SCALE = 30.0\n\n\nclass Second(First, Other):\n    pass\n")
    (tmp_path / "helper.py").write_text("class Options(Section):\n    pass\n")
    (tmp_path / "broken.py").write_text("class (Guidance):\n")
    monkeypatch.setattr(discovery, "_GUIDANCE", tmp_path)
    assert discovery.guidance_methods() == ["first", "second"] and discovery.score_compositions() == []
    assert (discovery.own_scale("first"), discovery.own_scale("second")) == (None, 30.0)
    assert GuidanceConfig(method="second").method == "second"


def resolve(options, method="ism"):
    guidance = {"method": method, "options": options}
    return config_layers.resolve(("params.yaml", {"nerf": {"guidance": guidance}})).nerf.guidance


def test_options_are_checked_against_the_class_in_the_methods_file():
    from prolific_core.guidance import ism

    config = resolve({"ism": {"interval": 0.1}, "asd": {"random": True}})
    assert config.options == {"ism": {"interval": 0.1}, "asd": {"random": True}}  # those that are set
    assert config.options_of(ism.Options) == ism.Options(interval=0.1, stride=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ism": {"intervall": 0.1}}, "unknown key 'nerf.guidance.options.ism.intervall'; did you mean 'interval'?"),
        ({"ism": {"interval": 2}}, "nerf.guidance.options.ism.interval = 2: Input should be less than or equal to 1"),
        ({"ism": {"interval": "0.1"}}, "nerf.guidance.options.ism.interval = '0.1': Input should be a valid number"),
        ({"clip": {"start": 9}}, "start must not be above end, got 9.0 and 8.0"),
        ({"sds": {"x": 1}}, "'sds' has no options; those that have are asd"),
        ({"magic": {}}, "'magic' has no options"),
    ],
)
def test_mistakes_in_options_name_the_key(options, message):
    with pytest.raises(InputError) as caught:
        resolve(options)
    assert str(caught.value).startswith("params.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_the_method_cannot_use_are_refused(prior):
    for score in (ScoreConfig(share_pass=True), ScoreConfig(camera_dropout=0.0)):
        with pytest.raises(InputError, match="with method 'esd'"):
            estimator(prior, method="esd", score=score)


def test_all_texts_are_embedded_before_the_first_step(prior, monkeypatch):
    """On a GPU, the text encoder moves only once."""
    for method in METHODS:
        guide = estimator(prior, method=method, negative_prompt="a blue chair")
        known = set(guide._texts())
        asked: set[str] = set()
        embed = type(prior).embed
        with monkeypatch.context() as patch:
            patch.setattr(
                type(prior),
                "embed",
                lambda self, texts: asked.update([texts] if isinstance(texts, str) else texts) or embed(self, texts),
            )
            latents, _, _, views = draws(4)
            for progress in (0.0, 0.9):
                guide.loss(latents, views, progress, generator(0, "loss"))
        assert asked and asked <= known, method


def test_no_file_lists_the_methods():
    """Names of methods are literals only where single methods are meant."""
    for module in modules(ROOT):
        path = module_file(module, ROOT)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                names = {item.value for item in node.elts if isinstance(item, ast.Constant)} & set(METHODS)
                assert len(names) < 3, f"{path}:{node.lineno}"
