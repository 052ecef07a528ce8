"""The functions that docs/api.md documents can be called as users of torch and diffusers expect."""

import importlib
import inspect
import re

import pytest
import torch

from prolific_core import GuidanceConfig, ImageScene, LatentDiffusion, LatentScene, Scorer, build_guidance, orbit
from prolific_core.cameras import sample
from prolific_core.config import CameraConfig
from tests.conftest import ROOT
from tests.support import tiny_pipeline

NAMES = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)


def functions(name: str) -> list[tuple[str, object, str]]:
    """Return the public functions of a documented name, each with the docstrings that describe its parameters."""
    module, last = name.rsplit(".", 1)
    documented = getattr(importlib.import_module(module), last)
    if inspect.isfunction(documented):
        return [(name, documented, inspect.getdoc(documented) or "")]
    found = []
    for key, value in vars(documented).items():
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function) and (key == "__init__" or not key.startswith("_")):
            text = "\n".join(filter(None, (inspect.getdoc(function), inspect.getdoc(documented))))
            # An override refers to the docstring of the method that it overrides.
            for base in documented.__mro__[1:]:
                text += "\n" + (inspect.getdoc(vars(base).get(key)) or "" if "; see `" in text else "")
            found.append((f"{name}.{key}", function, text))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_documented_and_generators_are_optional(name):
    for title, function, text in functions(name):
        for parameter in list(inspect.signature(function).parameters.values()):
            if (
                parameter.name in ("self", "cls")
                or parameter.name.startswith("_")
                or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ):
                continue
            if "Callable" in str(parameter.annotation):
                assert re.search(rf"^ *{parameter.name}: Function ", text, re.MULTILINE), (title, parameter.name)
            assert f"{parameter.name}:" in text, (title, parameter.name)
            if "generator" in parameter.name:
                assert parameter.default is None, (title, parameter.name)


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> LatentDiffusion:
    return LatentDiffusion.load(str(tiny_pipeline.make(tmp_path_factory.mktemp("prior"))))


def test_one_text_is_one_text_and_not_its_letters(prior, tmp_path):
    def drawn(texts):
        return prior.sample(texts, steps=2, generator=torch.Generator().manual_seed(0))

    assert torch.equal(drawn("a red mug"), drawn(["a red mug"])) and len(drawn(["a red mug"] * 3)) == 3
    assert torch.equal(prior.embed("a red mug"), prior.embed(["a red mug"]))
    scorer = Scorer.load(None, str(tiny_pipeline.make(tmp_path)))
    assert scorer is not None
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(scorer.similarity(images, "a red mug"), scorer.similarity(images, ["a red mug"]))


def test_without_a_generator_the_global_one_is_used(prior):
    """The same seed gives the same numbers, and further calls give others."""
    guidance = [
        GuidanceConfig(method="vsd"),
        GuidanceConfig.model_validate({"method": "vsd", "score": {"kind": "unet", "channels": [8, 8]}}),
        GuidanceConfig(method="sds"),
    ]
    views = orbit(2, elevation=10, distance=1.4, fov=45)
    latents = torch.ones(2, *prior.latent_shape, requires_grad=True)

    def trained(config: GuidanceConfig) -> torch.Tensor:
        method = build_guidance(prior, config, "a red mug")
        method.train_score_network(latents, views)
        return method.loss(latents, views, 0.0)

    calls = [
        lambda: prior.sample("a red mug", steps=2, eta=1),
        lambda: LatentScene(prior.latent_shape).latents,
        lambda: ImageScene(8).pixels,
        lambda: sample(2, CameraConfig()).c2w,
        *(lambda config=config: trained(config) for config in guidance),
    ]
    for call in calls:
        torch.manual_seed(3)
        first, second = call(), call()
        torch.manual_seed(3)
        assert torch.equal(call(), first) and not torch.equal(second, first)
