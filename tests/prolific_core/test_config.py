"""Configuration: precedence of the layers, and one line for every mistake."""

import pytest

from prolific_core import config, config_layers, discovery
from prolific_core.errors import InputError


def test_later_layers_go_over_earlier_ones():
    resolved = config_layers.resolve(
        ("params.yaml", {"nerf": {"steps": 10, "views": 2}, "texture": None}),
        ("preset", {"nerf": {"steps": 20, "guidance": {"scale": 3.0}}}),
        ("prompt", {"nerf": {"guidance": {"method": "sds"}}}),
    )
    assert (resolved.nerf.steps, resolved.nerf.views) == (20, 2)
    assert (resolved.nerf.guidance.scale, resolved.nerf.guidance.method) == (3.0, "sds")
    # Values that no layer sets keep the default of their own section, not of the class.
    assert resolved.geometry.guidance.method == "sds" and resolved.geometry.guidance.scale == 100.0
    assert resolved.texture.steps == config.TextureConfig().steps


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nerf": {"step": 5}}, "unknown key 'nerf.step'; did you mean 'steps'"),
        ({"nrf": {}}, "unknown key 'nrf'"),
        ({"nerf": {"steps": -1}}, "nerf.steps = -1"),
        ({"nerf": {"steps": "many"}}, "nerf.steps = 'many'"),
        ({"nerf": {"cameras": {"distance": [2, 1]}}}, "from low to high"),
        ({"export": {"texture_size": 1}}, "export.texture_size = 1"),
        ([1], "expected sections"),
    ],
)
def test_mistakes_name_the_file_and_the_key(values, message):
    with pytest.raises(InputError) as caught:
        config_layers.resolve(("params.yaml", {}), ("presets/demo.yaml", values))
    assert str(caught.value).startswith("presets/demo.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


RENAMED = {
    "logging.measure_every": "logging.metrics_every",
    "nerf.guidance.negative_scale": "nerf.guidance.options.csd.negative_scale",
    "nerf.guidance.view_words": "nerf.guidance.view_prompts",
    "texture.guidance.time.at": "texture.guidance.time.switch_at",
    "export.component_share": "export.component_fraction",
}


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new):
    values = 1
    for part in reversed(old.split(".")):
        values = {part: values}
    with pytest.raises(InputError) as caught:
        config_layers.resolve(("params.yaml", {}), ("prompts/x/prompt.yaml", values))
    assert str(caught.value) == f"prompts/x/prompt.yaml: {old} is now called {new}" and caught.value.exit_status == 2


def test_every_renamed_key_is_tested_and_its_new_name_exists():
    assert {".".join(old.split(".")[-2:]) for old in RENAMED} == config_layers.RENAMED.keys()
    values = config.Config().model_dump()
    for new in RENAMED.values():
        section = values
        path, _, option = new.partition(".options.")
        for part in path.split("."):
            section = section[part]
        if option:
            method, key = option.split(".")
            assert key in discovery.options(method).model_fields


@pytest.mark.parametrize("name", ["set.yaml", "set.csv"])
def test_a_file_of_prompts_with_a_renamed_key_is_refused_in_one_line(clone, tmp_path, name):
    file = tmp_path / name
    text = "- {text: a red mug, logging: {measure_every: 1}}\n"
    file.write_text(text if name.endswith("yaml") else "text,logging.measure_every\na red mug,1\n")
    done = clone.prolific("prompts", "import", str(file))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert name in done.stderr and "logging.measure_every is now called logging.metrics_every" in done.stderr


@pytest.mark.parametrize("preset", ["tiny", "demo", "paper"])
def test_presets_resolve_and_the_prompt_goes_over_them(project, preset):
    from dataclasses import replace

    prompt = replace(project.prompt("a-red-mug"), preset=preset, sections={"nerf": {"steps": 7}})
    resolved = project.config(prompt)
    assert resolved.nerf.steps == 7
    sizes = {"tiny": 32, "demo": 64, "paper": 512}
    assert resolved.geometry.resolution[0][1] == sizes[preset]


def test_mistakes_in_files_name_the_file(project):
    (project.root / "params.yaml").write_text("nerf: {steps: [")
    with pytest.raises(InputError, match="params.yaml, line 1: not valid YAML"):
        project.config(project.prompt("a-red-mug"))


def test_the_opacity_weight_fades_only_when_asked():
    from prolific_core.config import LossWeights

    assert [LossWeights(opacity=8, opacity_end=2).opacity_at(p) for p in (0, 0.5, 1)] == [8, 5, 2]
    assert LossWeights(opacity=8).opacity_at(0.5) == 8


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"distance": [0, 1]}, "greater than 0"),
        ({"fov": [40, 180]}, "less than 180"),
        ({"elevation": [-100, 0]}, "greater than or equal to -90"),
        ({"distance": [1, float("nan")]}, "finite"),
    ],
)
def test_cameras_that_cannot_be_are_refused(camera, message):
    with pytest.raises(InputError, match=message):
        config_layers.resolve(("x.yaml", {"nerf": {"cameras": camera}}))
