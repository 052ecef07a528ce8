"""Configuration: what goes over what, and one line for every mistake."""

import pytest

from prolific_core import config
from prolific_core.errors import InputError


def test_later_layers_go_over_earlier_ones():
    resolved = config.resolve(
        ("params.yaml", {"nerf": {"steps": 10, "views": 2}, "texture": None}),
        ("preset", {"nerf": {"steps": 20, "guidance": {"scale": 3.0}}}),
        ("prompt", {"nerf": {"guidance": {"method": "sds"}}}),
    )
    assert (resolved.nerf.steps, resolved.nerf.views) == (20, 2)
    assert (resolved.nerf.guidance.scale, resolved.nerf.guidance.method) == (3.0, "sds")
    # What a layer does not say keeps the section's own default, not the class's.
    assert resolved.geometry.guidance.method == "sds" and resolved.geometry.guidance.scale == 100.0
    assert resolved.texture.steps == config.TextureConfig().steps


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nerf": {"step": 5}}, "unknown key 'nerf.step'; did you mean 'steps'"),
        ({"nrf": {}}, "unknown key 'nrf'"),
        ({"nerf": {"steps": 0}}, "nerf.steps = 0"),
        ({"nerf": {"steps": "many"}}, "nerf.steps = 'many'"),
        ({"nerf": {"cameras": {"distance": [2, 1]}}}, "from low to high"),
        ({"export": {"texture_size": 1}}, "export.texture_size = 1"),
        ([1], "expected sections"),
    ],
)
def test_mistakes_name_the_file_and_the_key(values, said):
    with pytest.raises(InputError) as caught:
        config.resolve(("params.yaml", {}), ("presets/demo.yaml", values))
    assert str(caught.value).startswith("presets/demo.yaml: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


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
    ("camera", "said"),
    [
        ({"distance": [0, 1]}, "greater than 0"),
        ({"fov": [40, 180]}, "less than 180"),
        ({"elevation": [-100, 0]}, "greater than or equal to -90"),
        ({"distance": [1, float("nan")]}, "finite"),
    ],
)
def test_cameras_that_cannot_be_are_refused(camera, said):
    with pytest.raises(InputError, match=said):
        config.resolve(("x.yaml", {"nerf": {"cameras": camera}}))
