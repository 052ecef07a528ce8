"""Prompts: every text gets a safe, readable id, and mistakes in prompt.yaml are named in one line."""

import re
import sys

import pytest
import yaml
from ruamel.yaml import YAML

from prolific_core import prompts
from prolific_core.errors import InputError
from prolific_core.prompts import Prompt
from prolific_core.yaml_reader import read_yaml


@pytest.mark.parametrize(
    "text",
    [
        "a red mug",
        "12345",
        "../../etc/passwd; rm -rf /",
        '"$(id)" `id` ${id}',
        "🍄 mushroom",
        "Ünïcöde",
        "x" * 1000,
        "a  b",
    ],
)
def test_any_text_gives_a_safe_id(text):
    id = prompts.make_id(text, suffix="-s12-paper-p4")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id)
    assert len(id) <= prompts.MAX_ID and re.search("[a-z]", id)
    assert prompts.make_id(text) == prompts.make_id(text)


def test_ids_are_readable_and_tell_texts_apart():
    assert prompts.make_id("A red mug!") == "a-red-mug"
    assert prompts.make_id("🍄") != prompts.make_id("🍎")
    assert prompts.make_id("x" * 500) != prompts.make_id("x" * 501)
    assert prompts.make_id("a red mug", distinct=True) != prompts.make_id("a red mug!", distinct=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  \t ", "empty"),
        ("x" * 10_000, "10000"),
        ("a\nmug", r"\\n"),
        ("a\x00mug", "control"),
        ("\udcff", "control"),
        ("a\ufffe mug", r"ufffe'? at position 2"),
        ("a mug\uffff", "not a character"),
    ],
)
def test_unusable_texts_are_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        prompts.check_text(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_every_character_that_is_accepted_is_read_again(tmp_path):
    """DVC reads prompt.yaml with ruamel.yaml, so the test uses this parser, too."""
    accepted = []
    for code in range(sys.maxunicode + 1):
        try:
            accepted.append(prompts.check_text(f"a{chr(code)}b")[1])
        except InputError:
            continue
    assert len(accepted) > 1_000_000
    path = tmp_path / "prompt.yaml"
    for start in range(0, len(accepted), 50_000):
        text = "".join(accepted[start : start + 50_000])
        path.write_text(prompts.dump(Prompt("x", text)), encoding="utf-8")
        assert read_yaml(path, "prompt.yaml")["text"] == text
        assert YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["text"] == text


@pytest.mark.parametrize("id", ["", "../x", "a/b", "123", "A", "a--b", "-a", "a.b", "a" * 61, "a\n", None, 5])
def test_unsafe_ids_are_refused(id):
    with pytest.raises(InputError):
        prompts.check_id(id)


@pytest.mark.parametrize("text", ['a "quoted" mug', "yes", "0o17", "a: b # c", "${id}", "🍄", "1e3", "null", "'"])
def test_a_prompt_survives_its_file(text):
    prompt = Prompt("a-prompt", text, 3, "tiny", {"nerf": {"steps": 7}})
    read = prompts.parse("file", yaml.safe_load(prompts.dump(prompt)))
    assert (read.id, read.text, read.seed, read.preset) == ("a-prompt", text, 3, "tiny")
    assert read.sections["nerf"] == {"steps": 7}
    assert set(prompts.SECTIONS) <= set(read.sections)  # DVC requires all of them, even empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": -1}, "seed"),
        ({"preset": "../x"}, "preset"),
        ({"text": 5}, "text"),
        ({"id": "../x"}, "id"),
    ],
)
def test_a_prompt_file_says_what_is_wrong(change, message):
    with pytest.raises(InputError, match=f"prompt.yaml.*{message}"):
        prompts.parse("prompt.yaml", {"id": "a", "text": "t", "seed": 0, "preset": "demo"} | change)


@pytest.mark.parametrize("text", ["null", "true", "no", "1e5", "0x1f"])
def test_words_that_yaml_takes_for_something_else_stay_names(project, text):
    from flows.prompt_store import create

    prompt = create.file_prompt(project, text)
    assert project.prompt(prompt.id).id == prompt.id and project.prompt(prompt.id).text == text
