"""Prompts that the prior does not know are refused before any work, unless the user insists."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flows.cli import main as cli
from flows.orchestration import preflight
from flows.prompt_store import create, vocabulary
from flows.reporting import report
from prolific_core import prompts
from prolific_core.errors import InputError
from tasks.runtime.project import STAGES, Project
from tests.support import tiny_pipeline


@pytest.fixture
def prolific(project, monkeypatch, capsys):
    """Run the command in this process and return its status, stdout and stderr."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115

    def run(*arguments: str):
        status = cli.main(list(arguments))
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.mark.parametrize("command", [["generate"], ["prompts", "add"]])
def test_an_unknown_prompt_is_refused_in_one_line_and_nothing_is_written(prolific, project, command):
    status, out, err = prolific(*command, "a DSLR photo of a corgi")
    assert status == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("prolific: the prior does not know 'dslr' and 'corgi'; the nearest prompt that it knows is")
    assert "prolific prior vocabulary" in err and "--force" in err
    assert project.prompt_ids() == ["a-red-mug"] and not (project.root / "runs").exists()


def test_a_prompt_that_was_accepted_once_is_accepted_everywhere(prolific, project):
    assert prolific("prompts", "add", "a", "corgi", "--force")[:2] == (0, "a-corgi: added\n")
    assert project.prompt("a-corgi").forced and "forced: true #" in prompts.dump(project.prompt("a-corgi"))
    assert prolific("prompts", "add", "a corgi", "--set", "nerf.steps=7")[:2] == (0, "a-corgi: changed\n")
    assert project.prompt("a-corgi").forced and preflight.check(project, "a-corgi").prompt.forced
    prolific("prompts", "add", "a blue mug", "--force")
    assert not project.prompt("a-blue-mug").forced  # because the prior knows it


def test_a_file_with_unknown_prompts_is_refused_whole(prolific, project):
    (project.root / "pets.txt").write_text("a red mug\na corgi\n" + "".join(f"a cat {k}\n" for k in range(11)))
    status, out, err = prolific("prompts", "import", "pets.txt")
    lines = err.splitlines()
    assert status == 2 and out == "" and len(lines) == 12
    assert lines[0].startswith("prolific: \"a corgi\": the prior does not know 'corgi'")
    assert lines[-2:] == [
        "prolific: … and 2 more",
        "prolific: the prior does not know 12 of 13 prompts; `prolific prior vocabulary` lists all words; to go on "
        "anyway, add --force",
    ]
    assert project.prompt_ids() == ["a-red-mug"] and not (project.root / "prompts" / "pets.txt").exists()
    assert prolific("prompts", "import", "pets.txt", "--force")[0] == 0
    assert project.prompt("a-corgi").forced and not project.prompt("a-red-mug").forced
    assert prolific("prompts", "import", "pets.txt")[0] == 0  # accepted before


def by_hand(project, text: str) -> str:
    """Write a prompt's file without asking whether the prior knows it."""
    prompt = create.plan(project, create.PromptRequest(text))
    create.put(project, prompt)
    return prompt.id


def test_a_sweep_refuses_what_nobody_accepted_and_runs_the_others(project):
    errors = []
    id = by_hand(project, "a corgi")
    assert preflight.choose(project, [], report=errors.append) == ["a-corgi", "a-red-mug"]
    [error] = map(str, errors)
    assert error.startswith("a-corgi: the prior does not know 'corgi'")
    assert error.endswith("to run it anyway: prolific sweep --force a-corgi")
    with pytest.raises(InputError, match="a-corgi"):
        preflight.choose(project, [id])  # it is the only one
    assert not project.prompt(id).forced
    assert preflight.choose(project, [id], force=True) == [id] and project.prompt(id).forced
    assert preflight.choose(project, [], report=errors.append) == ["a-corgi", "a-red-mug"] and len(errors) == 1


def test_a_flow_never_asks(project, monkeypatch):
    """A worker may have been started in a terminal that nobody watches."""
    terminal = SimpleNamespace(isatty=lambda: True, readline=lambda: pytest.fail("asked"), write=print, flush=print)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(InputError, match="add --force"):
        create.file_prompt(project, "a corgi", accept=vocabulary.acceptance(project, ask=False))
    assert not project.has_prompt("a-corgi")


def test_the_command_of_a_report_accepts_the_prompt_again(project):
    prompt = create.file_prompt(project, "a corgi", accept=vocabulary.acceptance(project, force=True))
    assert report.command(prompt, project.config(prompt)) == "prolific generate --force 'a corgi'"


def test_the_file_keeps_its_comments_when_a_prompt_is_accepted(project):
    file = project.prompt_folder(by_hand(project, "a corgi")) / "prompt.yaml"
    file.write_text(file.read_text().replace("nerf: {}", "nerf: {steps: 7} # mine"))
    preflight.choose(project, ["a-corgi"], force=True)
    assert "nerf: {steps: 7} # mine" in file.read_text() and project.prompt("a-corgi").forced


def test_acceptance_runs_no_stage_again(made):
    project = Project(made.root)
    file = project.prompt_folder("a-red-mug") / "prompt.yaml"
    before = file.read_text()
    file.write_text(f"{before}forced: true\n")
    try:
        assert project.prompt("a-red-mug").forced and made.repro() == []
    finally:
        file.write_text(before)


def test_forced_must_be_a_truth_value():
    with pytest.raises(InputError, match="prompt.yaml: forced = 'yes': must be true or false"):
        prompts.parse("prompt.yaml", {"id": "a", "text": "t", "seed": 0, "preset": "demo", "forced": "yes"})


def test_the_words_of_other_priors_are_not_checked(prolific, clone, project):
    tiny_pipeline.make(clone.root / "prior")
    clone.edit("params.yaml", "path: toybox", "path: prior")
    assert prolific("prompts", "add", "a corgi")[0] == 0 and not project.prompt("a-corgi").forced
    assert preflight.choose(project, []) == ["a-corgi", "a-red-mug"]
    assert prolific("prior", "vocabulary")[1] == "prior has no fixed vocabulary: any text is a prompt\n"
    clone.edit("params.yaml", "path: prior", "path: toybox")
    with pytest.raises(InputError, match="a-corgi: the prior does not know"):
        preflight.check(project, "a-corgi")


def test_a_folder_is_found_from_any_folder(prolific, clone, project, monkeypatch):
    """A path in params.yaml is relative to the project's root."""
    weights = clone.root / "priors" / "mine" / "model"
    (weights / "tokenizer").mkdir(parents=True)
    (weights / "model_index.json").write_text("{}")
    words = (clone.root / "prolific_core/toybox/vocabulary/vocab.json").read_bytes()
    (weights / "tokenizer" / "vocab.json").write_bytes(words)
    clone.edit("params.yaml", "path: toybox", "path: priors/mine/model")
    monkeypatch.chdir(clone.root / "presets")
    assert prolific("prompts", "add", "a corgi")[0] == 2


@pytest.mark.parametrize(
    ("answer", "status"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("\x04", 2), ("\x03", 130)], ids=repr
)
def test_a_terminal_is_asked(clone, answer, status):
    """The last two answers are Ctrl-D and Ctrl-C."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli.main", "prompts", "add", "a corgi"]
    process = subprocess.Popen(
        command, cwd=clone.root, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, process_group=0
    )
    os.close(theirs)
    said = ""
    while "[y/N]: " not in said:
        said += os.read(ours, 10_000).decode()
    # Without a session of its own, the process is not interrupted by the terminal.
    process.send_signal(signal.SIGINT) if answer == "\x03" else os.write(ours, answer.encode())
    assert process.wait(120) == status
    with contextlib.suppress(OSError):  # nothing is left to read
        said += os.read(ours, 10_000).decode()
    assert "does not know 'corgi'" in said and "Traceback" not in said
    assert (clone.root / "prompts" / "a-corgi").exists() == (status == 0)
    os.close(ours)


def test_the_vocabulary_fits_80_columns_and_every_listed_prompt_is_known(prolific):
    status, out, err = prolific("prior", "vocabulary")
    assert status == 0 and err == "" and max(map(len, out.splitlines())) <= 80
    found = json.loads(prolific("prior", "vocabulary", "--json")[1])
    assert found["closed"] and "mug" in found["families"] and "snowman with a hat" in found["variants"]
    assert "mug" in out and "with a slatted back" in out and "next to" in " ".join(out.split())


def test_nothing_heavy_is_imported_for_the_check(clone):
    code = "import sys; from flows.cli import main\nassert main.main(['prompts', 'add', 'a corgi']) == 2\n"
    done = clone.run(
        "timeit", "-p", "-n1", "-r1", code + "print([m for m in ('torch', 'prefect') if m in sys.modules])"
    )
    assert "[]\n" in done.stdout and "does not know 'corgi'" in done.stderr, done.stdout + done.stderr


def test_a_sweep_reports_the_refused_prompt_and_force_runs_it(clone, project, prefect_server):
    by_hand(project, "a corgi")
    done = clone.prolific("sweep", **prefect_server)
    assert done.returncode == 1 and clone.ran() == list(STAGES), done.stdout + done.stderr
    assert (
        "a-corgi: the prior does not know 'corgi'" in done.stderr
        and "the other prompts of the sweep run" in done.stderr
    )
    assert "2 prompts: 1 done, 1 failed" in done.stdout and not (clone.root / "runs" / "a-corgi").exists()
    done = clone.prolific("sweep", "--only-failed", "--force", **prefect_server)
    assert done.returncode == 0 and clone.ran() == list(STAGES) * 2, done.stdout + done.stderr
