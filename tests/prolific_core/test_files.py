"""Atomic writes: two writers never share a temporary file, and a failed write leaves nothing behind."""

import json
import os

import pytest

from prolific_core import files


def test_two_writers_of_one_file_use_different_temporary_files(tmp_path):
    path = tmp_path / "new folder" / "value.txt"
    with files.atomically(path) as first, files.atomically(path) as second:
        assert first != second and first.parent == second.parent == path.parent
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last
    assert os.listdir(path.parent) == ["value.txt"]
    assert path.stat().st_mode & 0o777 == files._default_mode()


def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["value.json"]


def test_equal_values_give_equal_json(tmp_path):
    for name, value in {"x": {"b": "ü", "a": [1]}, "y": {"a": [1], "b": "ü"}}.items():
        files.write_json(tmp_path / name, value, indent=1)
    assert (
        (tmp_path / "x").read_bytes()
        == (tmp_path / "y").read_bytes()
        == '{\n "a": [\n  1\n ],\n "b": "ü"\n}\n'.encode()
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, None])
def test_what_is_no_json_object_is_read_as_an_empty_one(tmp_path, content):
    path = tmp_path / "metrics.json"
    if content is None:
        os.mkfifo(path)  # to read it would block
    else:
        path.write_bytes(content)
    assert files.read_json(path) == {} and files.read_json(tmp_path / "missing.json") == {}
    files.write_json(tmp_path / "whole.json", {"a": [1]})
    assert files.read_json(tmp_path / "whole.json") == {"a": [1]}
