"""What a stage shows while it runs: statuses, a bar that leaves nothing behind, a steady estimate, one duration."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from flows.orchestration import dvc_runner
from tasks.runtime import machine, records
from tasks.runtime.console import Console, duration
from tasks.runtime.project import Project
from tasks.runtime.stage import Stage

ID = "a-red-mug"


@pytest.fixture
def clock(monkeypatch):
    """Replace the clocks of stages and records by one that a test sets forward."""
    now = SimpleNamespace(time=1000.0)
    fake = SimpleNamespace(time=lambda: now.time, monotonic=lambda: now.time)
    monkeypatch.setattr(records, "time", fake)
    monkeypatch.setattr("tasks.runtime.job.time", fake)
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: "cpu")
    return now


def test_the_estimate_ignores_slow_first_steps_and_is_steady(clock):
    eta, found = records.EtaEstimator(), {}
    for step in range(1, 301):
        clock.time += 20 if step <= 3 else 1
        clock.time += 3 if step % 50 == 0 else 0  # a preview
        found[step] = eta.left(step, 300)
    assert all(found[step] is None for step in range(1, 11)) and found[11] == 289
    truth = {step: (300 - step) + 3 * (6 - step // 50) for step in found}
    assert all(abs(found[step] - truth[step]) <= 0.1 * truth[step] + 4 for step in range(11, 300))
    assert max(abs(found[step] - found[step - 1]) for step in range(12, 301)) < 20
    assert found[300] == 0
    assert eta.left(7, 300) is None  # the count has restarted, as after another stage


def test_an_estimate_has_about_two_digits():
    assert [duration(seconds) for seconds in (0.3, 9.4, 12.4, 93, 119, 121, 1234.5, 9000)] == [
        "0 s", "9 s", "10 s", "95 s", "120 s", "2 min", "21 min", "2.5 h",
    ]  # fmt: skip


def test_a_bar_fits_in_a_line_and_leaves_nothing_behind():
    code = """
from tasks.runtime.console import Console
console = Console("a-very-long-name-of-a-prompt-that-would-not-fit-in-a-line nerf")
console.status("loading the prior")
console.note("a note")
console.values({"loss": 123456.789})
console.step(140, 15000, 5000.0)
console.close()
console.done("61 s, 812 MB", False)
"""
    control, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=terminal, env=environment):
        os.close(terminal)
        shown = b""
        try:
            while data := os.read(control, 4096):
                shown += data
        except OSError:  # Linux reports the end of a terminal as an error
            pass
    os.close(control)
    text = shown.decode()
    assert "loading the prior" in text and "140/15000" in text and "loss 1.235e+05, 83 min left" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 80
    bar, _, rest = text.rpartition("\x1b[2K")  # the last line that was erased
    assert "140/15000" in bar and "━" not in rest and rest.strip().endswith("nerf 61 s, 812 MB")


def test_without_a_terminal_statuses_and_notes_are_lines(capsys):
    console = Console("nerf")
    console.status("loading the prior")
    console.note("resuming from step 100 of 300")
    console.step(101, 300, None)
    assert capsys.readouterr().err.splitlines() == [
        "nerf: loading the prior",
        "nerf: resuming from step 100 of 300",
        "nerf 101/300",
    ]


def test_a_run_has_one_duration_that_includes_interrupted_parts(project: Project, clock):
    """It includes loading, but no time in which nothing ran."""

    def run(steps: int, killed: bool) -> None:
        stage = Stage(project, "initialise", ID)
        clock.time += 5  # loading

        def body(job: Stage) -> dict:
            for step in range(1, steps + 1):
                clock.time += 1
                job.progress(step, 20, loss=1.0)
            if killed:
                raise KeyboardInterrupt
            (job.output / "result.json").write_text("1")
            return {}

        stage.run(body)

    for steps in (10, 5):
        with pytest.raises(KeyboardInterrupt):
            run(steps, killed=True)
        clock.time += 10_000
    run(20, killed=False)
    state = project.stage_state(ID, "initialise")
    seconds = json.loads((state / "run.json").read_text())["seconds"]
    assert seconds == (5 + 10) + (5 + 5) + (5 + 20)
    prompt = project.resolve(ID)
    assert dvc_runner.cached(prompt, "initialise").seconds == seconds
    # An output from elsewhere has no duration.
    (prompt.output("initialise") / "manifest.json").write_text("{}")
    assert dvc_runner.cached(prompt, "initialise").seconds is None


def test_a_resumed_stage_shows_only_what_is_new(project: Project, tmp_path, capsys):
    path = tmp_path / "records.jsonl"
    first = records.Records(path, "key")
    first.write("note", text="said before the interruption")
    before, attempt = dvc_runner._stamp(path), first.attempt
    time.sleep(0.01)
    second = records.Records(path, "key")
    second.write("note", text="resuming from step 100 of 300")
    process = SimpleNamespace(poll=lambda: 0)
    dvc_runner._watch(process, path, before, attempt, lambda: None, Console("nerf"))
    assert capsys.readouterr().err == "nerf: resuming from step 100 of 300\n"
