"""A system is one file with choices of method, between the preset and the prompt's own parameters."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flows.prompt_store import create, sets
from prolific_core import prompts
from prolific_core.errors import InputError
from prolific_core.yaml_reader import read_yaml
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import PromptRuns, flatten, row

PROJECT = Project(Path(__file__).parents[2])
# Keys of a stage that a system may set: what is optimised and how, and nothing that depends on the prior or the budget.
CHOICES = (
    "guidance.",
    "shading.",
    "losses.orientation",
    "losses.sparsity",
    "losses.entropy",
    "colours",
    "start",
    "material",
)
SIZES = ("guidance.score.", "guidance.negative_prompt")


def resolved(preset: str, system: str, **sections) -> dict:
    prompt = replace(PROJECT.prompt("a-red-mug"), preset=preset, system_name=system, sections=sections)
    return flatten(PROJECT.config(prompt).model_dump(mode="json"))


@pytest.mark.parametrize("system", PROJECT.systems())
def test_a_system_holds_choices_of_method_and_no_sizes(system):
    ((shown, values),) = PROJECT.system_layers(system)
    assert set(values) <= {"nerf", "geometry", "texture"}
    for key, value in flatten(values).items():
        name = key.partition(".")[2]
        chosen = name.startswith(CHOICES) and not name.startswith(SIZES)
        assert chosen or (name in ("steps", "fit_steps") and value == 0), f"{shown}: {key}"
    text = (PROJECT.root / shown).read_text()
    assert text.startswith("# ") and "arXiv" in text.partition("\n")[0]  # names its source


@pytest.mark.parametrize("preset", PROJECT.presets())
@pytest.mark.parametrize("system", PROJECT.systems())
def test_every_system_works_with_every_preset(system, preset):
    made, plain = resolved(preset, system), resolved(preset, "")
    values = flatten(PROJECT.system_layers(system)[0][1])
    assert {key for key in made if made[key] != plain[key]} <= set(values)
    assert {key: made[key] for key in values} == values


@pytest.mark.parametrize("preset", PROJECT.presets())
def test_prolificdreamer_is_what_the_presets_have(preset):
    assert resolved(preset, "prolificdreamer") == resolved(preset, "")


def write(project, name: str, text: str) -> None:
    (project.root / "systems" / f"{name}.yaml").write_text(text)


def test_a_system_is_between_the_preset_and_the_prompt(project):
    write(project, "mine", "nerf: {guidance: {method: sds, scale: 40.0}}\ntexture: {steps: 0}\n")
    sections = {"nerf": {"guidance": {"scale": 41.0}}}
    prompt = replace(project.prompt("a-red-mug"), preset="tiny", system_name="mine", sections=sections)
    made = project.config(prompt)
    assert (made.nerf.guidance.method, made.nerf.guidance.scale, made.texture.steps) == ("sds", 41.0, 0)
    assert (made.nerf.steps, made.geometry.steps) == (20, 8)  # sizes are the preset's
    assert [file for file, _ in project.layers(prompt)] == [
        "params.yaml",
        "presets/tiny.yaml",
        "systems/mine.yaml",
        "prompts/a-red-mug/prompt.yaml",
    ]


def test_a_stage_depends_on_its_own_sections_of_the_system(project):
    write(project, "mine", "nerf: {guidance: {method: sds}}\ntexture: {steps: 0}\n")
    prompt = replace(project.prompt("a-red-mug"), system_name="mine")
    stages = yaml.safe_load(pipeline.text(project, prompt))["stages"]
    read = {name: [e["systems/${system_name}.yaml"] for e in s["params"] if "systems/${system_name}.yaml" in e]
            for name, s in stages.items()}  # fmt: skip
    assert read == {
        "initialise": [],
        "nerf": [["nerf"]],
        "geometry": [],
        "texture": [["texture"]],
        "export": [],
        "evaluate": [],
    }
    # A key that the system sets has no effect in params.yaml, and one that it does not set still has.
    shared = next(entry["params.yaml"] for entry in stages["nerf"]["params"] if "params.yaml" in entry)
    assert "nerf.guidance.method" not in shared and "nerf.guidance.scale" in shared
    assert "system_name" in stages["nerf"]["params"][-1]["prompts/${id}/prompt.yaml"]
    # A prompt without a system has the pipeline that it always had.
    assert "system_name" not in pipeline.text(project, project.prompt("a-red-mug"))


def test_an_edited_system_runs_what_depends_on_it_again_and_nothing_else(clone, project):
    write(project, "mine", "nerf: {guidance: {method: sds}}\ntexture: {guidance: {scale: 40.0}}\n")
    prompt = create.file_prompt(project, "a blue mug", system="mine")
    target = f"prompts/{prompt.id}/dvc.yaml"
    assert clone.repro(target) == ["initialise", "nerf", "geometry", "texture", "export", "evaluate"]
    assert clone.repro(target) == []
    clone.edit("systems/mine.yaml", "40.0", "41.0")
    assert clone.repro(target) == ["texture", "export", "evaluate"]
    write(project, "mine", (project.root / "systems/mine.yaml").read_text() + "geometry: {steps: 0}\n")
    pipeline.refresh(project, project.prompt(prompt.id))
    assert clone.repro(target) == ["geometry", "texture", "export", "evaluate"]
    write(project, "other", "geometry: {steps: 0}\n")
    assert clone.repro(target) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none-such", None, "no system 'none-such' (systems/none-such.yaml does not exist); the systems are: "),
        ("mine", "nerf: {step: 1}\n", "systems/mine.yaml: unknown key 'nerf.step'"),
        ("mine", "nerf: {guidance: {method: magic}}\n", "systems/mine.yaml: nerf.guidance.method = 'magic'"),
        ("mine", "[1]\n", "systems/mine.yaml: expected sections"),
    ],
)
def test_a_wrong_system_is_one_line(project, name, text, message):
    if text:
        write(project, name, text)
    with pytest.raises(InputError) as caught:
        project.config(replace(project.prompt("a-red-mug"), system_name=name))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    if text is None:
        assert str(caught.value).endswith(", ".join(project.systems()))


def test_a_project_without_systems_says_so(project):
    for path in (project.root / "systems").glob("*.yaml"):
        path.unlink()
    with pytest.raises(InputError, match="the systems are: none yet"):
        project.config(replace(project.prompt("a-red-mug"), system_name="magic3d"))


def test_the_system_is_in_the_prompts_file_its_id_and_its_runs(project):
    write(project, "my_own", "nerf: {guidance: {method: sds}}\n")
    prompt = create.file_prompt(project, "a blue mug", preset="tiny", system="my_own", seed=2)
    assert prompt.id == "a-blue-mug-s2-tiny-my-own"
    assert 'system_name: "my_own"' in (project.prompt_folder(prompt.id) / "prompt.yaml").read_text()
    for read in (project.prompt(prompt.id), prompts.parse("x", yaml.safe_load(prompts.dump(prompt)))):
        assert (read.id, read.preset, read.seed, read.system_name) == (prompt.id, "tiny", 2, "my_own")
    runs = PromptRuns(project.resolve(prompt.id))
    assert runs.tags["system"] == runs.stage_tags("nerf")["system"] == row(prompt)["system"] == "my_own"
    with pytest.raises(InputError, match="has system_name 'my_own', not ''"):
        create.file_prompt(project, "a blue mug", preset="tiny", seed=2, id=prompt.id)


def test_an_existing_prompt_keeps_its_system_until_another_is_given(project):
    for name in ("one", "two"):
        write(project, name, "nerf: {guidance: {method: sds}}\n")
    first = create.plan(project, create.PromptRequest("a blue mug", "mug", system="one"))
    create.put(project, first)
    kept = create.plan(project, create.PromptRequest("a blue mug", "mug", seed=1))
    assert (kept.system_name, kept.seed) == ("one", 1)
    create.put(project, create.plan(project, create.PromptRequest("a blue mug", "mug", system="two")))
    assert project.prompt("mug").system_name == "two"
    assert (project.prompt_folder("mug") / "prompt.yaml").read_text().count("system_name") == 1
    with pytest.raises(InputError, match="no system 'three'; known: .*one.*two"):
        create.plan(project, create.PromptRequest("a blue mug", "mug", system="three"))


def test_a_file_of_prompts_may_name_systems(project, tmp_path):
    write(project, "mine", "nerf: {guidance: {method: sds}}\n")
    table, entries = tmp_path / "table.csv", tmp_path / "entries.yaml"
    table.write_text("text,system_name,nerf.steps\na blue mug,mine,7\na blue chair,,8\n")
    entries.write_text("- {text: a blue mug, system_name: mine, nerf: {steps: 7}}\n- {text: a blue chair}\n")
    for path in (table, entries):
        found = sets.read(path, create.PromptRequest(""))
        assert [request.system or "" for request in found] == ["mine", ""]
        assert found[0].sections["nerf"] == {"steps": 7}
    (only,) = [request for request in sets.read(entries, create.PromptRequest("", system="x")) if request.system == "x"]
    assert only.text == "a blue chair"


@pytest.mark.parametrize("value", ["[1]", "../demo", "a b", "1.5"])
def test_an_unusable_name_in_the_file_is_one_line(value):
    values = {"id": "a", "text": "a mug", "seed": 0, "preset": "demo", "system_name": yaml.safe_load(value)}
    with pytest.raises(InputError, match="system_name = .*: must be the name of a file in systems/"):
        prompts.parse("prompt.yaml", values)


def test_the_resolved_values_are_read_from_the_file_each_time(project):
    write(project, "mine", "nerf: {guidance: {scale: 40.0}}\n")
    prompt = replace(project.prompt("a-red-mug"), system_name="mine")
    assert project.config(prompt).nerf.guidance.scale == 40
    write(project, "mine", "nerf: {guidance: {scale: 41.25}}\n")
    assert read_yaml(project.root / "systems" / "mine.yaml", "mine")["nerf"]["guidance"]["scale"] == 41.25
    assert project.config(prompt).nerf.guidance.scale == 41.25


def imported(project, name: str) -> list[dict]:
    """Return the parameters of the prompts of a set in examples/sets, in order."""
    path = PROJECT.root / "examples" / "sets" / f"{name}.yaml"
    _, done = sets.import_file(project, path, None, create.PromptRequest("", preset="demo"), force=True)
    assert sets.select(project, [name]) == list(done)
    return [flatten(project.resolve(id).config.model_dump(mode="json")) for id in done]


def test_each_step_of_the_ladder_adds_one_choice_and_the_last_one_is_the_preset(project):
    runs = imported(project, "ladder")
    changes = [{key: (old[key], new[key]) for key in old if old[key] != new[key]} for old, new in zip(runs, runs[1:])]
    assert changes == [
        {"nerf.resolution": ([[0.0, 32]], [[0.0, 64]])},
        {"nerf.guidance.time.anneal": ("none", "sqrt")},
        {"nerf.guidance.method": ("sds", "vsd"), "nerf.guidance.scale": (100.0, 4.0)},
    ]
    assert runs[-1] == resolved("demo", "")


def test_the_set_of_particles_differs_in_their_number_only(project):
    runs = imported(project, "particles")
    assert [run["initialise.particles"] for run in runs] == [1, 4, 16]
    for run in runs:
        assert run | {"initialise.particles": 1} == resolved("demo", "")
