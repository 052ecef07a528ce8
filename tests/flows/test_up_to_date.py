"""Status of many prompts at once, compared with what DVC would run."""

import os
import shutil
from collections.abc import Iterator

import pytest

from flows.orchestration import up_to_date as checks
from flows.orchestration.up_to_date import up_to_date
from tasks.dvc_pipeline import cli
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import Project

FIRST, SECOND = "a-red-mug", "another-red-mug"


@pytest.fixture
def two(made, monkeypatch) -> Iterator[Project]:
    """Two finished prompts, of which the second is a copy of the first; a test's changes to them are undone.

    Each is checked in a process of its own.
    """
    root = made.root
    monkeypatch.setattr(checks, "SHARE", 1)
    monkeypatch.setattr(checks, "_processors", lambda: 2)
    shutil.copytree(root / "runs" / FIRST, root / "runs" / SECOND, dirs_exist_ok=True)
    for folder in (FIRST, SECOND):
        (root / "prompts" / folder).mkdir(exist_ok=True)
    for name in ("prompt.yaml", "dvc.yaml", "dvc.lock"):
        text = (root / "prompts" / FIRST / name).read_text()
        (root / "prompts" / SECOND / name).write_text(text.replace(FIRST, SECOND))
    shutil.copytree(root / "prompts", root.parent / "prompts", dirs_exist_ok=True)
    yield Project(root)
    shutil.rmtree(root / "runs" / SECOND)
    shutil.copytree(root.parent / "prompts", root / "prompts", dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("params.yaml", "resolution: 128", "resolution: 127", set()),
        (f"prompts/{SECOND}/prompt.yaml", "seed: 0", "seed: 1", {FIRST}),
        (f"prompts/{SECOND}/prompt.yaml", "seed: 0", "seed: zero", {FIRST}),
        (f"runs/{SECOND}/export/result.json", "red", "blue", {FIRST}),
        (f"prompts/{SECOND}/dvc.lock", "schema", "- no schema", {FIRST}),
        ("tasks/nerf.py", "import json", "import  json", set()),
    ],
)
def test_only_prompts_without_any_change_are_up_to_date(two, path, old, new, expected):
    file = two.root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    try:
        assert up_to_date(two, [FIRST, SECOND, "unknown"]) == expected
    finally:
        if file.is_file():  # a damaged output has been removed
            file.write_text(text)


def test_prompts_that_are_finished_are_up_to_date(two, capfd):
    with prompt_lock(two, SECOND):
        assert up_to_date(two, [FIRST, SECOND]) == {FIRST}  # a run of the second is in progress
    assert up_to_date(two, [FIRST, SECOND]) == {FIRST, SECOND}
    assert capfd.readouterr() == ("", "") and "another-red-mug" in two.report(SECOND).read_text()
    two.report(FIRST).write_text("newer than its outputs")
    two.report(SECOND).write_text("older than params.yaml")
    os.utime(two.root / "params.yaml", ns=(two.report(SECOND).stat().st_mtime_ns + 1,) * 2)
    os.utime(two.report(FIRST), ns=(two.report(SECOND).stat().st_mtime_ns + 2,) * 2)
    assert up_to_date(two, [FIRST, SECOND]) == {FIRST, SECOND}
    assert two.report(FIRST).read_text() == "newer than its outputs"
    assert "another-red-mug" in two.report(SECOND).read_text()
    shutil.rmtree(two.root / "runs" / SECOND / "nerf")
    assert up_to_date(two, [FIRST, SECOND]) == {FIRST}
    assert up_to_date(two, []) == set()


def test_checks_that_are_interrupted_leave_no_process(two, monkeypatch):
    start, started = checks._start, []

    def answer(check):
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "_start", lambda *arguments: started.append(start(*arguments)) or started[-1])
    monkeypatch.setattr(checks, "_answer", answer)
    with pytest.raises(KeyboardInterrupt):
        up_to_date(two, [FIRST, SECOND])
    assert [check.returncode for check in started] == [-9, -9]


def test_parameters_are_looked_up_as_dvc_does(monkeypatch):
    import dpath
    from dvc.dependency import param

    monkeypatch.setattr(param, "dpath", dpath)  # restored after the test
    cli.look_up_parameters()
    values = {
        "nerf": {"steps": 0, "time": {"final": None}, "schedule": [[0.0, 64], [0.5, 128]], "a*": 1},
        "x": False,
        "lights": {1: {"power": 3.0}, 2024: 5, False: 6},  # YAML has keys of other types
    }
    keys = ["nerf", "nerf.steps", "nerf.time", "nerf.time.final", "nerf.schedule", "nerf.schedule.1", "x", "nerf.a*"]
    keys += ["lights.1.power", "lights.2024", "lights.False", ".nerf.steps"]
    for key in keys:
        assert param.dpath.get(values, key, separator=".") == dpath.get(values, key, separator="."), key
    for key in ("nerf.missing", "y", "nerf.steps.0", "nerf.schedule.7"):
        with pytest.raises(KeyError):
            dpath.get(values, key, separator=".")
        with pytest.raises(KeyError):
            param.dpath.get(values, key, separator=".")
