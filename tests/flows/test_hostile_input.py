"""Whatever is written into a file or after an option is accepted or refused in one line, without a traceback."""

import copy
import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.prompt_store import create, sets
from prolific_core import config, config_layers, prompts
from prolific_core.errors import InputError
from prolific_core.yaml_reader import parse_yaml, read_yaml
from tasks.runtime.project import Project

MANY = pytest.param(1000, marks=pytest.mark.faults)
EXAMPLES = [100, MANY]

text = st.text(max_size=40) | st.sampled_from(
    ["null", "1:30", "yes", "~", "1e400", "!!python/name:os.system", "&a [*a]"]
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | text | st.dates() | st.binary(max_size=8) | st.just([[]])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def leaves(tree: dict, path: tuple = ()) -> list[tuple]:
    found = []
    for key, value in tree.items():
        found += leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return found


DEFAULTS = config.Config().model_dump(mode="json")
keys = st.sampled_from(leaves(DEFAULTS))


def changed(path: tuple, value) -> dict:
    """Return the default configuration with another value of one parameter."""
    tree = copy.deepcopy(DEFAULTS)
    section = tree
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return tree


def refused_in_one_line(work) -> None:
    """Call a function, which may raise an InputError of one printable line."""
    try:
        work()
    except InputError as error:
        line = str(error)
        assert len(line) < 1500 and "\n" not in line
        assert all(character.isprintable() for character in line), ascii(line)


def check(examples: int, strategy, work) -> None:
    """Call `work` with examples of a strategy."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples < 1000,
        suppress_health_check=HealthCheck,
    )
    @given(strategy)
    def run(example) -> None:
        refused_in_one_line(lambda: work(example))

    run()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_value_of_any_parameter(examples):
    def work(example) -> None:
        path, value = example
        made = config_layers.check("params.yaml", changed(path, value))
        # A value must have the type of the parameter, and must not merely be convertible to it.
        for key in path:
            made = getattr(made, key)
        assert isinstance(made, bool) == isinstance(value, bool)
        if isinstance(made, int | float) and not isinstance(made, bool):
            assert isinstance(value, int | float) and made == value

    check(examples, st.tuples(keys, values), work)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_configuration(examples):
    check(
        examples,
        st.dictionaries(st.sampled_from(list(DEFAULTS)) | text, values, max_size=3),
        lambda x: config_layers.check("x", x),
    )


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_setting(examples):
    pair = st.builds(
        "{}={}".format, keys.map(".".join) | text, text | st.builds(json.dumps, st.integers() | st.lists(text))
    )
    check(examples, pair | text, lambda pair: create.settings([pair]))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_yaml(examples):
    dumped = st.builds(lambda value: yaml.safe_dump(value), values)
    check(
        examples,
        text | st.text(alphabet="[]{}&*a!:- ,#|>'\"\n\t%@", max_size=60) | dumped,
        lambda x: parse_yaml(x, "a.yaml"),
    )


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_prompt(examples, tmp_path):
    def work(sentence: str) -> None:
        prompt = prompts.Prompt("x", prompts.check_text(sentence))
        (tmp_path / "prompt.yaml").write_text(prompts.dump(prompt), encoding="utf-8")
        assert prompts.parse("x", read_yaml(tmp_path / "prompt.yaml", "x")).text == prompt.text
        assert prompts.check_id(prompts.make_id(prompt.text))

    check(examples, st.text(max_size=80), work)


@pytest.mark.parametrize("examples", [30, MANY])  # a file has many prompts
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".yaml"])
def test_any_file_of_prompts(examples, suffix, tmp_path, project):
    """Nothing is written: the prompts are planned only."""
    path = tmp_path / f"prompts{suffix}"
    row = st.lists(text, min_size=1, max_size=4).map(",".join)
    table = st.lists(row, max_size=3).map(lambda rows: "\n".join(["text,id,seed,nerf.steps", *rows]))
    listed = st.lists(st.fixed_dictionaries({"text": text}, optional={"seed": values, "nerf": values})).map(
        yaml.safe_dump
    )
    content = st.binary(max_size=60) | (text | table | listed).map(lambda x: x.encode("utf-8", "surrogatepass"))

    def work(data: bytes) -> None:
        path.write_bytes(data)
        for request in sets.read(path, create.PromptRequest("")):
            create.plan(project, request)

    check(examples, content, work)
    assert project.prompt_ids() == ["a-red-mug"]


def test_a_bomb_of_aliases_is_refused_in_a_short_line():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)]
    with pytest.raises(InputError, match="params.yaml (has more than 100000 values|is nested more deeply)"):
        parse_yaml("\n".join(lines), "params.yaml")


@pytest.mark.parametrize("content", ["[" * 5000, "a: " * 20 + "{a: " * 2000, "- " * 3000])
def test_deep_nesting_is_refused(content):
    with pytest.raises(InputError, match=r"nested more deeply than 30 levels|not valid YAML"):
        parse_yaml(content, "params.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nerf: {steps: true}", "nerf.steps = True"),
        ('nerf: {steps: "20"}', "nerf.steps = '20'"),
        ("nerf: {steps: 1:30}", "nerf.steps = '1:30'"),
        ("nerf: {steps: 20.5}", "nerf.steps = 20.5"),
        ("nerf: {steps: 20}\nnerf: {views: 2}", 'line 2: not valid YAML: found duplicate key "nerf"'),
        ("nerf: {resolution: [[0.5, 64]]}", "must start at 0"),
        ("nerf: {resolution: [[0, 64], [0.5, 32], [0.4, 16]]}", "in the order of their starts"),
        ("nerf: {guidance: {score: {betas: [0.9, 1]}}}", "betas.1"),
        ("nerf: {guidance: {scale: .nan}}", "scale"),
        ("nerf: {cameras: {fov: [50, 40]}}", "from low to high"),
        ("nerf: {guidance: {time: {minimum: 0.6, maximum: 0.5}}}", "minimum must not be above maximum"),
        ("prior: {path: no/such/folder}", "no such folder"),
    ],
)
def test_nonsense_is_refused_by_name(project, content, said):
    from flows.orchestration import preflight

    (project.root / "params.yaml").write_text(content)
    with pytest.raises(InputError, match=".*") as caught:
        preflight.check(project, "a-red-mug")
    assert said in str(caught.value)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir()])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_named(project: Project, make):
    path: Path = project.prompt_folder("a-red-mug") / "prompt.yaml"
    path.unlink()
    make(path)
    with pytest.raises(InputError, match="prompts/a-red-mug/prompt.yaml"):
        project.prompt("a-red-mug")
