"""Prompts on file: adding, importing, selecting and removing them, and the stages that a changed parameter runs."""

import json

import pytest

from flows.cli import main as cli
from flows.prompt_store import create, sets
from prolific_core.errors import InputError
from tasks.runtime.project import Project


@pytest.fixture
def prolific(project, monkeypatch, capsys):
    """Run the command in this process and return its status, stdout and stderr."""
    monkeypatch.chdir(project.root)

    def run(*arguments: str):
        status = cli.main(list(arguments))
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_prompt_is_added_once_and_edited_after_that(prolific, project):
    assert prolific("prompts", "add", "a blue mug", "--seed", "3", "--set", "nerf.steps=20")[:2] == (
        0,
        "a-blue-mug-s3: added\n",
    )
    prompt = project.prompt("a-blue-mug-s3")
    assert (prompt.text, prompt.seed, prompt.preset) == ("a blue mug", 3, "demo") and prompt.sections["nerf"] == {
        "steps": 20
    }
    again = ("prompts", "add", "a blue mug", "--id", "a-blue-mug-s3")
    assert prolific(*again)[1] == "a-blue-mug-s3: unchanged\n"
    file = project.prompt_folder("a-blue-mug-s3") / "prompt.yaml"
    file.write_text(file.read_text().replace('nerf: {"steps": 20}', "nerf: # mine\n  steps: 20 # few"))
    changes = (
        "--preset",
        "tiny",
        "--set",
        "nerf.losses.opacity=1e-3",
        "--set",
        "nerf.cameras.fov=[30, 40]",
        "--set",
        "logging.preview_every=5",
    )
    assert prolific(*again, *changes)[:2] == (0, "a-blue-mug-s3: changed\n")
    text, prompt = file.read_text(), project.prompt("a-blue-mug-s3")
    assert "nerf: # mine" in text and "steps: 20 # few" in text
    assert (prompt.seed, prompt.preset) == (3, "tiny")
    assert prompt.sections["nerf"] == {"steps": 20, "losses": {"opacity": 0.001}, "cameras": {"fov": [30.0, 40.0]}}
    assert project.config(prompt).logging.preview_every == 5
    assert prolific(*again, *changes)[1] == "a-blue-mug-s3: unchanged\n" and file.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "nerf.step=5"], "--set: unknown key 'nerf.step'; did you mean 'steps'?"),
        (["--set", "nerf.steps=many"], "--set: nerf.steps = 'many'"),
        (["--set", "nerf.steps=-1"], "--set: nerf.steps = -1"),
        (["--set", "nerf.steps"], "a setting must be KEY=VALUE"),
        (["--set", "nerf={}"], "'nerf' is a group of parameters"),
        (["--set", "nerf.guidance={scale: 5}"], "'nerf.guidance' is a group of parameters"),
        (["--set", "nerf.steps={"], "the value must be YAML"),
        (["--set", "nerf.cameras.fov=[50, 40]"], "a range must go from low to high"),
        (["--preset", "../demo"], "no preset '../demo'"),
        (["--seed", "-1"], "seed = -1"),
        (["--id", "../x"], "not usable"),
        (["--id", "a-red-mug"], "prompts/a-red-mug already exists with the text 'a red mug'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(prolific, project, arguments, said):
    before = {path: path.read_bytes() for path in project.root.rglob("prompts/**/*") if path.is_file()}
    status, out, err = prolific("prompts", "add", "a blue mug", *arguments)
    assert status == 2 and out == "" and err.startswith("prolific: ") and err.count("\n") == 1 and said in err
    assert {path: path.read_bytes() for path in project.root.rglob("prompts/**/*") if path.is_file()} == before


FILES = {
    "toys.txt": "# toys\na red mug\n\na blue mug\n",
    "toys.csv": 'text,seed,nerf.steps\n"a red mug",,\na blue mug,2,30\n',
    "toys.yaml": "- a red mug\n- {text: a blue mug, id: blue, nerf: {steps: 30}}\n",
}


@pytest.mark.parametrize(
    ("name", "id", "steps"),
    [("toys.txt", "a-blue-mug", None), ("toys.csv", "a-blue-mug-s2", 30), ("toys.yaml", "blue", 30)],
)
def test_a_file_becomes_prompts_and_a_set(prolific, project, name, id, steps):
    (project.root / name).write_text(FILES[name])
    status, out, err = prolific("prompts", "import", name, "--set", "texture.steps=7")
    assert status == 0, err
    assert out.splitlines()[:2] == ["a-red-mug: changed", f"{id}: added"] and "prolific sweep toys" in out
    assert sets.select(project, ["toys"]) == ["a-red-mug", id]
    sections = project.prompt(id).sections
    assert sections["texture"] == {"steps": 7} and sections["nerf"].get("steps") == steps
    assert prolific("prompts", "import", name, "--set", "texture.steps=7")[1].splitlines()[:2] == [
        "a-red-mug: unchanged",
        f"{id}: unchanged",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", "a green mug\na\tred mug\n", "x.txt, line 2: the prompt contains a control character"),
        ("x.csv", "text,nerf.step\na green mug,5\n", "x.csv, line 2: unknown key 'nerf.step'"),
        ("x.csv", "text,seed\na green mug,-1\n", "x.csv, line 2: prompt: seed = -1"),
        ("x.csv", "text,seed\na green mug, small,1\n", "x.csv, line 2: the line must have as many cells as the header"),
        ("x.csv", "prompt\na green mug\n", "the first line must name the columns: text"),
        (
            "x.yaml",
            "- a green mug\n- {text: a red mug, nerf: {step: 5}}\n",
            "x.yaml, prompt 2: unknown key 'nerf.step'",
        ),
        ("x.yaml", "- a green mug\n- 5\n", "x.yaml, prompt 2: the prompt text must be a string"),
        (
            "x.yaml",
            "- {text: a green mug, id: g}\n- {text: a mug, id: g}\n",
            "x.yaml, prompt 2: 'g' occurs twice with different values",
        ),
        ("x.yaml", "a: {", "not valid YAML"),
        ("x.json", "[]", "must be a .txt, .csv or .yaml file"),
        ("a-red-mug.txt", "a green mug\n", "choose another name for the set with --name"),
        ("x.txt", "\n", "x.txt has no prompts"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(prolific, project, name, content, said):
    (project.root / name).write_text(content)
    status, out, err = prolific("prompts", "import", name)
    assert status == 2 and err.count("\n") == 1 and said in err, err
    assert project.prompt_ids() == ["a-red-mug"] and sets.set_names(project) == []


def test_names_are_ids_sets_and_patterns(project):
    for text in ("a blue mug", "a blue car", "a green car"):
        create.put(project, create.plan(project, create.PromptRequest(text)))
    (project.root / "prompts" / "cars.txt").write_text("# mine\na-green-car\n\na-blue-car\n")
    assert sets.select(project, []) == ["a-blue-car", "a-blue-mug", "a-green-car", "a-red-mug"]
    assert sets.select(project, ["cars", "*-mug", "a-blue-car"]) == [
        "a-green-car",
        "a-blue-car",
        "a-blue-mug",
        "a-red-mug",
    ]
    (project.root / "prompts" / "bad.txt").write_text("a-red-mug\nnothing\n")
    for name, said in (
        ("x-*", "no prompt matches 'x-\\*'"),
        ("bad", "prompts/bad.txt, line 2: no prompt 'nothing'"),
        ("x", "no prompt or set 'x'; see `prolific prompts list`"),
        ("bda", "no prompt or set 'bda'; did you mean 'bad'"),
    ):
        with pytest.raises(InputError, match=said):
            sets.select(project, [name])


def test_list_shows_finished_stages(prolific, project):
    output = project.output("a-red-mug", "initialise")
    output.mkdir(parents=True)
    (output / "manifest.json").write_text("{}")
    assert prolific("prompts", "list")[1].splitlines()[1].split() == [
        "1/6",
        "demo",
        "0",
        "a-red-mug",
        "a",
        "red",
        "mug",
    ]
    (found,) = json.loads(prolific("prompts", "list", "--json")[1])
    assert found == {
        "id": "a-red-mug",
        "text": "a red mug",
        "seed": 0,
        "preset": "demo",
        "system_name": "",
        "stages": 1,
    }


def test_a_parameter_runs_its_stage_and_the_later_ones_again(made):
    project = Project(made.root)
    for setting, stages in {
        "logging.preview_every=3": [],
        "texture.steps=7": ["texture", "export", "evaluate"],
        "nerf.steps=7": ["nerf", "geometry", "texture", "export", "evaluate"],
        "export.faces=777": ["export", "evaluate"],
    }.items():
        request = create.PromptRequest("a red mug", sections=create.settings([setting]))
        assert create.put(project, create.plan(project, request)) == "changed"
        assert made.repro() == stages, setting


def test_a_run_reads_no_other_prompt(made):
    """Bringing one prompt up to date reads its pipeline only, since there may be hundreds of them."""
    other = made.root / "prompts" / "other" / "dvc.yaml"
    other.parent.mkdir()
    other.write_text("stages: [this is no pipeline]")
    try:
        assert made.repro() == [] and made.repro("prompts/a-red-mug/dvc.yaml:nerf") == []
        assert made.run("tasks.dvc_pipeline.cli", "status", "prompts/a-red-mug/dvc.yaml").returncode == 0
        assert (
            "other/dvc.yaml" in made.run("tasks.dvc_pipeline.cli", "repro").stderr
        )  # `dvc repro` in the root reads all of them
    finally:
        other.unlink()
        other.parent.rmdir()


def test_a_removed_prompt_is_gone_and_comes_back_from_the_cache(made, monkeypatch, capsys):
    project = Project(made.root)
    monkeypatch.chdir(made.root)
    (project.root / "prompts" / "mugs.txt").write_text("# mine\na-red-mug\n")
    assert cli.main(["prompts", "remove", "a-red-mug", "nothing"]) == 2 and project.prompt_ids() == ["a-red-mug"]
    assert cli.main(["prompts", "remove", "a-red-mug"]) == 0
    assert not (project.root / "runs/a-red-mug").exists() and project.prompt_ids() == []
    assert (project.root / "prompts" / "mugs.txt").read_text() == "# mine\n"
    assert cli.main(["prompts", "add", "a red mug"]) == 0
    assert made.repro() == [] and (project.root / "runs/a-red-mug/evaluate/manifest.json").is_file()
