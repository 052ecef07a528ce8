"""Stages and their files: incomplete output never counts, and only what has changed runs again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prolific_core.config import Config
from prolific_core.errors import InputError, ProlificError
from tasks.dvc_pipeline import pipeline
from tasks.runtime import machine, records
from tasks.runtime.imports import imported_modules, module_file
from tasks.runtime.job import EditedWhileRunning
from tasks.runtime.project import NO_RESULT, STAGES, Project, code_of
from tasks.runtime.stage import Stage

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    """Keep stages in this process from changing torch's settings."""
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: "cpu")


def make(project: Project, name: str, content: str = "x") -> None:
    def body(stage):
        (stage.output / "file.txt").write_text(content)
        return {"quality": 1.0}

    Stage(project, name, "a-red-mug").run(body)


def everything(folder) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stage_writes_its_files_metrics_and_manifest(project):
    make(project, "initialise")
    output = project.output("a-red-mug", "initialise")
    assert set(everything(output)) == {"file.txt", "metrics.json", "manifest.json"}
    assert json.loads((output / "metrics.json").read_text()) == {"quality": 1.0}
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["prompt"]["text"] == "a red mug" and set(manifest["files"]) == {"file.txt", "metrics.json"}
    assert set(manifest["parameters"]) == {"initialise", "system"}


def test_equal_runs_give_equal_bytes(project):
    make(project, "initialise")
    first = everything(project.output("a-red-mug", "initialise"))
    time.sleep(0.01)
    make(project, "initialise")
    assert everything(project.output("a-red-mug", "initialise")) == first


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_stage_leaves_the_earlier_output_and_nothing_else(project, error):
    make(project, "initialise", "before")
    before = everything(project.root / "runs")

    def body(stage):
        (stage.output / "file.txt").write_text("half")
        raise error

    with pytest.raises(type(error)):
        Stage(project, "initialise", "a-red-mug").run(body)
    assert everything(project.root / "runs") == before


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("params.yaml", "particles: 1", "particles: 2"),
        ("prompts/a-red-mug/prompt.yaml", "seed: 0", "seed: 1"),
        ("tasks/initialise.py", "quality", "Quality"),
    ],
)
def test_a_result_of_parameters_that_were_edited_meanwhile_does_not_count(clone, project, path, old, new):
    def body(stage):
        clone.edit(path, old, new)

    with pytest.raises(EditedWhileRunning, match="edited while it ran; run the same command again"):
        Stage(project, "initialise", "a-red-mug").run(body)
    assert not project.output("a-red-mug", "initialise").exists()
    make(project, "initialise")


def test_a_missing_or_damaged_input_is_named_with_the_command_that_makes_it(project):
    with pytest.raises(InputError, match="runs/a-red-mug/initialise is missing.*prolific stage initialise a-red-mug"):
        Stage(project, "nerf", "a-red-mug").input("initialise")
    make(project, "initialise")
    output = project.output("a-red-mug", "initialise")
    assert Stage(project, "nerf", "a-red-mug").input("initialise") == output
    (output / "file.txt").write_text("changed")
    with pytest.raises(InputError, match="initialise/file.txt has been modified"):
        Stage(project, "nerf", "a-red-mug").input("initialise")
    (output / "manifest.json").unlink()
    with pytest.raises(InputError, match="is incomplete"):
        Stage(project, "nerf", "a-red-mug").input("initialise")


def test_a_stage_may_read_only_what_it_lists(project):
    with pytest.raises(ProlificError, match="STAGES"):
        Stage(project, "nerf", "a-red-mug").input("export")


def test_a_checkpoint_is_of_these_parameters_inputs_and_code(clone, project):
    def folder():
        return Stage(project, "initialise", "a-red-mug").checkpoint

    first = folder()
    assert folder() == first
    clone.edit("params.yaml", "preview_every: 50", "preview_every: 51")  # affects no result
    clone.edit("params.yaml", "texture:\n  steps: 100", "texture:\n  steps: 9")  # of a later stage
    assert folder() == first
    clone.edit("params.yaml", "particles: 1", "particles: 2")
    second = folder()
    assert second != first and not first.exists()  # checkpoints of other parameters are removed
    clone.edit("tasks/initialise.py", "quality", "Quality")
    third = folder()
    assert third not in (first, second)


def test_a_resumed_stage_finds_its_checkpoint_and_goes_on_in_its_records(project):
    seen = []

    def body(stage):
        state = stage.checkpoint / "step"
        seen.append(int(state.read_text()) if state.exists() else 0)
        for step in range(seen[-1] + 1, 11):
            stage.progress(step, 10, loss=1.0)
            state.write_text(str(step))
            if step == 5 and len(seen) == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stage(project, "initialise", "a-red-mug").run(body)
    stage = Stage(project, "initialise", "a-red-mug")
    stage.run(body)
    assert seen == [0, 5] and not stage.checkpoint.exists() or not any(stage.checkpoint.iterdir())
    from tasks.runtime import records

    found, _ = records.read(stage.state / "records.jsonl")
    assert [record["kind"] for record in found if record["kind"] in ("start", "end")] == ["start", "start", "end"]
    assert len({record["attempt"] for record in found if record["kind"] == "start"}) == 1
    steps = [record["step"] for record in found if record["kind"] == "metrics"]
    assert steps == sorted(steps) and steps[-1] == 10


def test_images_are_previews_and_records(project):
    import numpy as np
    from PIL import Image

    def body(stage):
        stage.progress(3, 10, loss=1.0)
        stage.image("view", np.full((3, 4, 5), 0.5, np.float32))

    stage = Stage(project, "initialise", "a-red-mug")
    stage.run(body)
    image = Image.open(stage.state / "preview.png")
    assert image.size == (5, 4) and image.getpixel((0, 0)) == (128, 128, 128)
    assert (stage.state / "preview" / "view-000003.png").is_file()


def test_previews_to_keep_are_in_the_output_of_a_run_that_resumed_too(project):
    """DVC keeps them there, while .state is of one machine."""
    import numpy as np

    def body(stage):
        state = stage.checkpoint / "step"
        for step in range(int(state.read_text()) + 1 if state.exists() else 1, 4):
            stage.image("view", np.full((3, 1, 1), step / 10, np.float32), step, keep=step > 1)
            state.write_text(str(step))
            if step == 2:
                stop()

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stage(project, "initialise", "a-red-mug").run(body)
    Stage(project, "initialise", "a-red-mug").run(body)
    folder = project.output("a-red-mug", "initialise")
    names = {"view-000002.png", "view-000003.png"}
    assert {path.name for path in (folder / "preview").iterdir()} == names
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {name for name in files if name.startswith("preview/")} == {f"preview/{name}" for name in names}


def test_a_metric_that_is_not_finite_is_null(project):
    Stage(project, "initialise", "a-red-mug").run(lambda stage: {"good": 1, "bad": float("nan")})
    metrics = json.loads((project.output("a-red-mug", "initialise") / "metrics.json").read_text())
    assert metrics == {"good": 1.0, "bad": None}


def test_one_run_of_a_stage_at_a_time(project):
    def body(stage):
        with pytest.raises(ProlificError, match="already running"):
            make(project, "initialise")

    Stage(project, "initialise", "a-red-mug").run(body)


@pytest.mark.parametrize(
    ("trouble", "status", "said"),
    [
        ("raise OSError(28, 'No space left on device', 'runs/x')", 1, "disk is full"),
        ("raise PermissionError(13, 'Permission denied', 'runs/x')", 1, "no permission"),
        (
            "from prolific_core.errors import InputError\nraise InputError('prior.path: no such\\nfolder')",
            2,
            "no such folder",
        ),
        ("raise MemoryError", 1, "out of memory"),
    ],
)
def test_a_failure_is_one_line_and_a_status(clone, trouble, status, said):
    clone.trouble("initialise", "(stage.output / 'half').write_text('half')\n" + trouble)
    done = clone.stage("initialise")
    assert done.returncode == status
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("prolific: ") and said in done.stderr
    assert not (clone.root / "runs" / "a-red-mug").exists() or not any((clone.root / "runs" / "a-red-mug").iterdir())


def test_a_killed_stage_leaves_no_output(clone):
    clone.trouble("initialise", "import os\n(stage.output / 'half').write_text('')\nos.kill(os.getpid(), 9)")
    assert clone.stage("initialise").returncode == -signal.SIGKILL
    assert not (clone.root / "runs/a-red-mug/initialise").exists()
    assert "is missing" in clone.stage("nerf").stderr
    (clone.root / "trouble-initialise.py").unlink()
    assert clone.stage("initialise").returncode == 0
    assert sorted(path.name for path in (clone.root / "runs/a-red-mug").iterdir()) == ["initialise"]


def test_dvc_runs_only_what_changed(clone):
    assert clone.repro() == list(STAGES)
    clone.edit("params.yaml", "preview_every: 50", "preview_every: 10")  # affects no result
    (clone.root / "flows" / "reporting" / "report.py").write_text("# another report\n")
    clone.edit("tasks/tracking/tracker.py", '"""', '"""(Changed.) ')
    assert clone.repro() == []
    clone.edit("params.yaml", "faces: 20000", "faces: 20001")
    assert clone.repro() == ["export", "evaluate"]
    clone.edit("prompts/a-red-mug/prompt.yaml", "evaluate: {}", "evaluate: {views: 4}")
    assert clone.repro() == ["evaluate"]
    # Changed code runs the stages that use it and the later ones; the NeRF uses no meshes.
    clone.edit("prolific_core/mesh/clean.py", '"""', '"""(Changed.) ')
    assert clone.repro() == ["geometry", "texture", "export", "evaluate"]


def test_a_number_edited_while_its_stage_runs_makes_it_run_again(clone):
    clone.trouble(
        "initialise",
        "from pathlib import Path\npath = Path('params.yaml')\n"
        "path.write_text(path.read_text().replace('particles: 1', 'particles: 2'))",
    )
    done = clone.run("tasks.dvc_pipeline.cli", "repro", "prompts/a-red-mug/dvc.yaml:initialise")
    assert done.returncode != 0 and "edited while it ran" in done.stderr
    (clone.root / "trouble-initialise.py").unlink()
    assert clone.repro("prompts/a-red-mug/dvc.yaml:initialise") == ["initialise"]
    assert clone.repro("prompts/a-red-mug/dvc.yaml:initialise") == []


def test_a_finished_stage_that_dvc_could_not_record_does_not_run_again(clone):
    """DVC deletes the output of a stage that it has not recorded."""
    clone.edit(
        "tasks/__main__.py",
        "        stage.run(project, name, id)\n",
        "        stage.run(project, name, id)\n        if os.path.exists('kill'):\n         os.kill(os.getppid(), 9)\n",
    )
    target = "prompts/a-red-mug/dvc.yaml:initialise"
    (clone.root / "kill").touch()
    assert clone.run("tasks.dvc_pipeline.cli", "repro", target).returncode == -signal.SIGKILL
    assert clone.ran() == ["initialise"] and not (clone.root / "prompts/a-red-mug/dvc.lock").exists()
    (clone.root / "kill").unlink()
    first = everything(clone.root / "runs")
    assert clone.repro(target) == [] and everything(clone.root / "runs") == first
    assert clone.repro(target) == []  # DVC has recorded it
    # The copy of a recorded output is never used.
    done = clone.run("tasks.dvc_pipeline.cli", "repro", "--force", target)
    assert done.returncode == 0 and clone.ran() == ["initialise"]


def test_a_damaged_copy_of_an_unrecorded_output_is_not_used(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "initialise")
    make(project, "initialise")
    output = project.output("a-red-mug", "initialise")
    shutil.rmtree(output)
    make(project, "initialise", "another")
    assert (output / "file.txt").read_text() == "x"  # restored
    shutil.rmtree(output)
    (copy,) = project.stage_state("a-red-mug", "initialise").glob("finished/*/file.txt")
    copy.write_text("damaged")
    make(project, "initialise", "another")
    assert (output / "file.txt").read_text() == "another"


def test_root_repro_covers_every_prompt_and_the_gallery(clone, project):
    from flows.prompt_store.create import file_prompt

    file_prompt(project, "a blue chair", preset="tiny")
    assert sorted(clone.repro("dvc.yaml")) == sorted(2 * list(STAGES))
    page = (clone.root / "gallery" / "index.html").read_text()
    assert "a red mug" in page and "a blue chair" in page
    clone.edit("prompts/a-blue-chair-tiny/prompt.yaml", "seed: 0", "seed: 1")
    assert clone.repro("dvc.yaml") == list(STAGES)


def test_sections_that_dvc_would_miss_are_added(clone, project):
    folder = project.prompt_folder("a-red-mug")
    (folder / "prompt.yaml").write_text("id: a-red-mug\ntext: a red mug # mine\nseed: 0\npreset: demo\nnerf:\n")
    pipeline.refresh(project, project.prompt("a-red-mug"))
    assert "# mine" in (folder / "prompt.yaml").read_text()
    assert clone.repro("prompts/a-red-mug/dvc.yaml:initialise") == ["initialise"]


def test_a_model_of_the_users_own_is_a_dependency(clone, project, tmp_path):
    """Its path stays the same after it was trained again. The scorer is only for the evaluation."""
    outside = tmp_path / "a ${model}"
    for folder in (clone.root / "mine", outside):
        for part in ("unet", "vae", "scorer"):
            (folder / part).mkdir(parents=True)
            (folder / part / "weights").write_text(f"{part} 1")
        (folder / "model_index.json").write_text("{}")
    clone.edit("params.yaml", "path: toybox", "path: mine")
    clone.edit(
        "prompts/a-red-mug/prompt.yaml",
        "nerf: {}",
        f"nerf: {{guidance: {{score: {{base: {json.dumps(str(outside))}}}}}}}",
    )
    pipeline.refresh(project, project.prompt("a-red-mug"))
    assert clone.repro() == list(STAGES) and clone.repro() == []
    for path, ran in (
        (clone.root / "mine/unet/weights", list(STAGES)[1:]),
        (outside / "vae/weights", ["nerf", "geometry", "texture", "export", "evaluate"]),
        (clone.root / "mine/scorer/weights", ["evaluate"]),
    ):
        key = Stage(project, ran[0], "a-red-mug").key
        path.write_text(path.read_text().replace("1", "2"))
        assert Stage(project, ran[0], "a-red-mug").key != key
        assert clone.repro() == ran, path
    assert json.loads((project.output("a-red-mug", "nerf") / "manifest.json").read_text())["models"]


def test_a_damaged_checkpoint_is_dropped_with_a_note(project, capsys):
    from prolific_core import checkpoint
    from tasks.guided import state_file

    def body(stage):
        path = stage.checkpoint / "state.safetensors"
        checkpoint.save(path, {"step": 3})
        assert state_file(stage) == path and path.exists()
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert state_file(stage) == path and not path.exists()
        return {}

    Stage(project, "initialise", "a-red-mug").run(body)
    found, _ = records.read(project.stage_state("a-red-mug", "initialise") / "records.jsonl")
    (note,) = [record["text"] for record in found if record["kind"] == "note"]
    assert note.startswith("removed the damaged checkpoint .state/a-red-mug/initialise/checkpoints/")
    assert note.endswith("state.safetensors; stage 'initialise' of 'a-red-mug' starts again")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to end a stage with its parent; Linux only")
def test_a_stage_ends_with_the_dvc_that_started_it(clone):
    clone.trouble(
        "initialise", "import os, time\n(stage.project.root / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    dvc = subprocess.Popen(
        [sys.executable, "-m", "tasks.dvc_pipeline.cli", "repro", "prompts/a-red-mug/dvc.yaml"],
        cwd=clone.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pid = clone.root / "pid"
    try:
        _wait(lambda: pid.exists() and pid.read_text())
        number = int(pid.read_text())
    finally:
        dvc.kill()
        dvc.wait()
    _wait(lambda: not _alive(number))
    assert not (clone.root / "runs/a-red-mug/initialise").exists()


def test_no_pipeline_is_shipped_that_was_never_run():
    """`dvc pull` fails if a stage of any pipeline in the clone has no lock."""
    listed = subprocess.run(
        ["git", "ls-files", "prompts", "priors"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = set(listed.stdout.split())
    pipelines = {file for file in files if file.endswith("/dvc.yaml")}
    assert {file.replace("dvc.yaml", "dvc.lock") for file in pipelines} <= files


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_lists_code_that_exists(stage):
    listed = code_of(stage, ROOT, Config())
    missing = [path for path in listed if not (ROOT / path).exists() and not path.endswith("weights")]
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_covers_all_that_it_imports(stage):
    listed = code_of(stage, ROOT, Config())
    imported = imported_modules(f"tasks.{stage}", ROOT) - NO_RESULT
    files = {module_file(module, ROOT).relative_to(ROOT).as_posix() for module in imported}
    missing = {
        file
        for file in files
        if not any(file == path or file.startswith(f"{path}/") for path in listed) and not file.endswith("__init__.py")
    }
    assert not missing


def _wait(ready, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split(")")[1].split()[0] != "Z"


def test_dvc_loads_pickles_from_private_folders_only(clone):
    """`.dvc/config` is for plain `dvc`, as after a fresh clone, and the variable for the commands of this project."""
    cache = clone.root / ".state" / "dvc"
    assert clone.run("dvc", "status", "prompts/a-red-mug/dvc.yaml").returncode == 0
    assert len(list((cache / "repo").iterdir())) == 2  # the placeholder and this project's cache
    for path in (cache.parent, cache, *cache.rglob("*")):
        assert path.is_symlink() or not path.stat().st_mode & 0o022, path
    shutil.rmtree(cache)
    assert clone.run("tasks.dvc_pipeline.cli", "status", "prompts/a-red-mug/dvc.yaml").returncode == 0
    assert cache.stat().st_mode & 0o777 == 0o700 and len(list((cache / "repo").iterdir())) == 1
