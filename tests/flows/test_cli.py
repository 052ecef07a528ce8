"""Tests of the command: results, exit statuses, and one clear line for every mistake."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli import main as cli
from prolific_core.errors import InputError
from tasks.runtime.project import STAGES

HEAVY = ("torch", "diffusers", "transformers", "prefect", "mlflow", "dvc", "numpy", "warp", "pydantic")


def test_help_is_quick_because_nothing_heavy_is_imported(clone):
    code = "import sys; from flows.cli import main as cli\nassert cli.main(['--help']) == 0\n"
    done = clone.run("timeit", "-p", "-n1", "-r1", code + f"print([m for m in {HEAVY} if m in sys.modules])")
    assert "generate" in done.stdout and "\n[]\n" in done.stdout, done.stdout + done.stderr
    seconds = done.stdout.split("best of 1: ")[1].split(" per loop")[0]  # of the processor, without Python's own start
    assert seconds.endswith("msec") and float(seconds.split()[0]) < 1000, seconds


def commands() -> dict[tuple[str, ...], Any]:
    """Return all commands and groups by their words."""

    def below(command, path):
        yield path, command
        for name, part in getattr(command, "commands", {}).items():
            yield from below(part, (*path, name))

    return dict(below(typer.main.get_command(cli.app), ()))


def test_every_command_has_a_help_page_that_fits_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert len(commands()) == 33
    for path, command in commands().items():
        assert cli.main([*path, "--help"]) == 0
        page = capsys.readouterr().out
        lines = page.splitlines()
        assert max(map(len, lines)) <= 80 and len(lines) > 5, path
        for paragraph in command.help.split("\n\n"):
            # Typer keeps line breaks after the first paragraph, so a longer line would be broken twice.
            broken = paragraph.splitlines()[:-1] if paragraph != command.help.split("\n\n")[0] else []
            assert all(len(line) <= 78 for line in broken), (path, paragraph)
        assert command.help.split("\n\n")[0].endswith("."), path
    assert "Exit status: 0" in page or cli.app.info.epilog


def test_every_parameter_has_help_and_shows_its_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    for path, command in commands().items():
        assert cli.main([*path, "--help"]) == 0
        page = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for parameter in command.params:
            text = parameter.help
            assert text and text[0].isupper() and text.endswith("."), (path, parameter.name)
            assert len(text.split()) > 1 and text.split()[0] in page, (path, parameter.name)
            default = parameter.default
            if parameter.required or default is False or getattr(parameter, "is_flag", False):
                continue
            if default is None:
                assert "default" in text.lower(), (path, parameter.name, "does not say what happens without it")
            else:
                assert f"[default: {getattr(default, 'value', default)}]" in page, (path, parameter.name)


def test_the_help_lists_the_presets_and_systems_on_file(clone):
    (clone.root / "presets" / "mine.yaml").write_text("nerf: {}\n")
    (clone.root / "systems" / "own.yaml").write_text("nerf: {}\n")
    page = " ".join(clone.prolific("generate", "--help", COLUMNS="80").stdout.replace("│", " ").split())
    assert "A file in presets/: demo, mine, paper, paper-fast, room, tiny." in page
    assert "a file in systems/: dreamfusion, fantasia3d, magic3d, own, prolificdreamer." in page


def test_the_version_and_the_bare_command(clone):
    from importlib.metadata import version

    done = clone.prolific("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"prolific {version('prolific')}\n", "")
    bare = clone.prolific()
    assert bare.returncode == 2 and "Usage: prolific" in bare.stdout + bare.stderr


def test_completion_knows_commands_and_prompts(clone):
    def complete(line: str) -> list[str]:
        settings = {"_PROLIFIC_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        return clone.prolific(**settings).stdout.split()

    assert complete("prolific gen") == ["generate"]
    assert complete("prolific stage nerf a-r") == ["a-red-mug"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", ""], "the prompt is empty"),
        (["generate", "x" * 10_000], "10000 characters; at most 1000"),
        (["generate", "a\nmug"], "control character"),
        (["prior", "sample", "a red mug", "--scale", "nan"], "'--scale'"),
        (
            ["generate", "a mug", "--preset", "../demo"],
            "no preset '../demo'; known: demo, paper, paper-fast, room, tiny",
        ),
        (["generate", "a mug", "--system", "dream"], "no system 'dream'; known: dreamfusion, fantasia3d, magic3d"),
        (
            ["generate", "a mug", "--system", "magic3d", "--method", "csd"],
            "--method and --system cannot be used together",
        ),
        (["generate", "a mug", "--seed", "-1"], "seed = -1"),
        (["generate", "a mug", "--particles", "0"], "initialise.particles = 0"),
        (["generate", "a mug", "--id", "../../x"], "not usable"),
        (["generate", "another mug", "--id", "a-red-mug"], "choose another --id"),
        (["stage", "nerf", "nothing"], "no prompt 'nothing'"),
        (["stage", "nrf", "a-red-mug"], "no stage 'nrf'"),
        (["stage", "nerf", "../x"], "not usable"),
        (["stage", "texture", "a-red-mug"], "prolific stage nerf a-red-mug"),
        (["sweep", "nothing"], "no prompt or set 'nothing'"),
        (["ui", "--port", "0"], "'--port': Input should be greater than or equal to 1 (see prolific ui --help)"),
        (["study", "--steps", "0"], "'--steps': Input should be greater than or equal to 1"),
        (["study", "--full", "--quick"], "--full and --quick cannot be used together"),
        (["sweep", "--workers", "2", "--pool", "gpu"], "--workers and --pool cannot be used together"),
        (["worker", "--gpus", "0", "--slots", "2"], "--gpus and --slots cannot be used together"),
        (["generate", "a mug", "--method", "magic"], "'--method': 'magic' is not one of 'asd', "),
        (["generate"], "Missing argument"),
        (["generate", "a", "mug", "red"], 'the nearest prompt that it knows is "a red mug"'),
        (["generate", "a red mug", "a blue car"], "one prompt is expected, got 2: 'a red mug', 'a blue car'"),
        (["generate", "-x"], "No such option: -x"),
        (["generate", "--", "-x", "--preset", "tiny"], "does not know '-', 'x', 'preset' and 'tiny'"),
        (["generat", "a mug"], "No such command 'generat'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(clone, arguments, said):
    before = sorted(clone.root.rglob("prompt.yaml"))
    done = clone.prolific(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("prolific: ") and done.stderr.count("\n") == 1 and said in done.stderr
    assert sorted(clone.root.rglob("prompt.yaml")) == before and not (clone.root / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nerf:\n  steps: 300", "nerf:\n  step: 5", "params.yaml: unknown key 'nerf.step'; did you mean 'steps'"),
        ("threads: 1", "threads: 0", "params.yaml: system.threads = 0"),
        ("nerf:\n  steps: 300", "nerf: {", "params.yaml, line"),
        ("path: toybox", "path: ./nowhere", "prior.path: no such folder: ./nowhere"),
    ],
)
def test_a_mistake_in_a_file_is_reported_before_anything_runs(clone, old, new, said):
    clone.edit("params.yaml", old, new)
    done = clone.prolific("generate", "a red mug")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
    assert not (clone.root / "runs").exists()


def test_a_missing_project_is_reported_with_the_folder_searched(clone, tmp_path):
    done = clone.prolific("sweep", PROLIFIC_ROOT=str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "nowhere" in done.stderr and "PROLIFIC_ROOT" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("shell", "status"),
    [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), (">/dev/full", 1)],
)
def test_streams_that_are_closed_or_full_give_no_traceback(clone, shell, status):
    command = f"{shlex.quote(sys.executable)} -m flows.cli.main prompts list {shell}"
    done = subprocess.run(["sh", "-c", command], cwd=clone.root, capture_output=True, text=True)
    assert done.returncode == status and "Traceback" not in done.stderr and done.stderr.count("\n") == status


def test_a_folder_that_was_deleted_is_named(clone, tmp_path):
    command = f"mkdir gone && cd gone && rmdir ../gone && {shlex.quote(sys.executable)} -m flows.cli.main prompts list"
    environment = {**os.environ, "PYTHONPATH": str(clone.root)}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (
        done.returncode == 2 and done.stderr == "prolific: the current folder has been deleted; change to another one\n"
    )


def test_special_characters_in_a_prompt_stay_text(project):
    from flows.prompt_store.create import file_prompt

    text = '"; touch owned; $(touch owned) `touch owned` ../../owned 🍄 ${id}'
    prompt = file_prompt(project, text)
    assert file_prompt(project, text) == project.prompt(prompt.id)
    assert project.prompt(prompt.id).text == text
    assert [path.name for path in (project.root / "prompts").iterdir() if path.name == prompt.id]


def test_texts_with_the_same_words_are_different_prompts(project):
    from flows.prompt_store.create import file_prompt

    first, second = file_prompt(project, "a blue mug"), file_prompt(project, "a blue mug!")
    assert first.id == "a-blue-mug" and second.id != first.id
    assert file_prompt(project, "a blue mug!") == project.prompt(second.id)


def test_options_are_part_of_the_name_and_of_the_numbers(project):
    from flows.prompt_store.create import file_prompt

    prompt = file_prompt(project, "a red mug", preset="tiny", seed=3, particles=2, method="sds")
    assert prompt.id == "a-red-mug-s3-tiny-p2-sds"
    config = project.config(prompt)
    assert (
        config.initialise.particles == 2 and config.nerf.guidance.method == "sds" and config.nerf.guidance.scale == 100
    )
    with pytest.raises(InputError, match="seed"):
        file_prompt(project, "a red mug", seed=4, id=prompt.id)


def test_generate_writes_set_parameters_to_the_prompts_file(clone, project):
    clone.edit("params.yaml", "device: auto", "device: cuda:7")  # ends the command before a server starts
    command = ("generate", "a red mug", "--set", "nerf.steps=20", "--set", "nerf.guidance.scale=9")
    sds = ("generate", "a red mug", "--method", "sds", "--set", "nerf.guidance.scale=50")
    for arguments in (command, command, sds, sds):
        done = clone.prolific(*arguments)
        assert done.returncode == 2 and "cuda:7" in done.stderr, done.stderr
    assert project.prompt("a-red-mug").sections["nerf"] == {"steps": 20, "guidance": {"scale": 9.0}}
    made = project.config(project.prompt("a-red-mug-sds"))
    assert (made.nerf.guidance.method, made.nerf.guidance.scale, made.texture.guidance.scale) == ("sds", 50, 100)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("nerf.step=5", "--set: unknown key 'nerf.step'; did you mean 'steps'?"),
        ("nerf.steps=many", "--set: nerf.steps = 'many'"),
        ("nerf.steps", "--set nerf.steps: a setting must be KEY=VALUE"),
        ("texture.guidance.time.minimum=0.9", "minimum must not be above maximum or final"),
    ],
)
def test_generate_refuses_a_setting_in_one_line(clone, setting, said):
    before = (clone.root / "prompts/a-red-mug/prompt.yaml").read_bytes()
    done = clone.prolific("generate", "a red mug", "--set", setting)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
    assert (clone.root / "prompts/a-red-mug/prompt.yaml").read_bytes() == before


def test_generate_makes_everything_once(clone):
    """The prompt holds characters that are special in a shell, a template and a path."""
    text = "a 'red' mug; touch owned ../x ${id} 🍄"
    done = clone.prolific("generate", text, "--preset", "tiny", "--json", "--force")
    assert done.returncode == 0, done.stderr
    assert clone.ran() == list(STAGES)
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"id", "seconds", "peak_memory_mb", "stages", "glb", "turntable", "report", "metrics"}
    assert set(result["stages"]) == set(STAGES) and not any(stage["cached"] for stage in result["stages"].values())
    assert result["metrics"] == {"quality": 0.5} and result["peak_memory_mb"] > 1
    with open(result["glb"], "rb") as glb, open(result["turntable"], "rb") as turntable:
        assert (glb.read(), turntable.read()) == (b"mesh.glb", b"turntable.mp4")
    page = Path(result["report"]).read_text()
    assert "a &#39;red&#39; mug; touch owned" in page and page.count("<script") == 3  # two of code, and the model
    assert not list(clone.root.rglob("owned"))
    assert all(len(line) <= 80 for line in done.stderr.splitlines() if "warning" not in line), done.stderr

    again = clone.prolific("generate", text, "--preset", "tiny")
    assert again.returncode == 0 and clone.ran() == list(STAGES)  # nothing ran
    assert "mesh.glb" in again.stdout and "report" in again.stdout


def test_a_failed_stage_is_reported_with_its_status_or_its_last_output(clone, prefect_server):
    clone.trouble(
        "nerf", "from prolific_core.errors import InputError\nraise InputError('prior.path: no such folder: /x')"
    )
    one = clone.prolific("generate", "a red mug", **prefect_server)
    assert one.returncode == 2 and "stage 'nerf' of 'a-red-mug' failed: prior.path" in one.stderr
    assert "Traceback" not in one.stderr and not (clone.root / "runs/a-red-mug/nerf").exists()

    clone.trouble("nerf", "import os; print('last words', flush=True); os.kill(os.getpid(), 9)")
    killed = clone.prolific("generate", "a red mug", **prefect_server)
    assert killed.returncode == 1 and "last words" in killed.stderr and "Traceback" not in killed.stderr
    assert clone.ran() == ["initialise", "nerf", "nerf", "nerf"]  # the killed stage is tried a second time


def test_doctor_names_versions_device_kernels_and_prior(clone):
    done = clone.prolific("doctor")
    assert done.returncode == 0, done.stderr
    for said in ("torch", "dvc", "GPU", "threads", "hash_encoding", "compositing", "raster", "toybox"):
        assert said in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="permissions work differently")
def test_a_folder_that_may_not_be_written_is_named(clone):
    import os

    if os.geteuid() == 0:
        # root may write anywhere, but a file in place of the folder is as unusable
        (clone.root / ".state" / "a-red-mug").write_text("")
        assert clone.stage("initialise").returncode == 1
        return
    (clone.root / "prompts").chmod(0o500)
    done = clone.prolific("generate", "a green mug")
    assert done.returncode == 1 and "no permission" in done.stderr and done.stderr.count("\n") == 1


def test_mlflow_s_assistant_runs_no_command_on_this_machine(project, monkeypatch):
    """Its API answers to every user of the machine, so `prolific ui` confines it to a container."""
    monkeypatch.setenv("PROLIFIC_ROOT", str(project.root))
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append(environment))
    assert cli.main(["ui", "--port", "5917"]) == 0
    code = "from mlflow.assistant.providers.base import assistant_sandbox_enabled as confined; assert confined()"
    subprocess.run([sys.executable, "-c", code], env=started[0], check=True)
