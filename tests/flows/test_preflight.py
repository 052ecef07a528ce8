"""What kills and bad disks leave behind is noticed before work starts, and repaired where nothing is lost."""

import json
import os
import random

import pytest
import yaml

from flows.orchestration import preflight
from prolific_core.errors import InputError
from tasks.runtime.project import Project

ID = "a-red-mug"


def told(project, capsys) -> str:
    preflight.repair(project, ID)
    return capsys.readouterr().err


def test_a_whole_project_is_left_alone(made, capsys):
    project = Project(made.root)
    lock = project.prompt_folder(ID) / "dvc.lock"
    before = lock.read_bytes()
    assert told(project, capsys) == "" and lock.read_bytes() == before


def test_a_lock_file_that_was_cut_anywhere_is_made_again_and_nothing_runs(made, capsys):
    project = Project(made.root)
    lock = project.prompt_folder(ID) / "dvc.lock"
    whole, chance = lock.read_bytes(), random.Random(3)
    removed = 0
    for end in [0, 1, *(chance.randrange(len(whole)) for _ in range(60))]:
        lock.write_bytes(whole[:end])
        said = told(project, capsys)
        assert said == (
            ""
            if lock.exists()
            else f"prolific: removed the damaged file prompts/{ID}/dvc.lock; "
            "DVC recreates it without running finished stages\n"
        )
        removed += not lock.exists()
    assert removed > 20
    lock.unlink(missing_ok=True)
    assert made.repro() == [] and lock.read_bytes() == whole
    lock.write_bytes(whole[: len(whole) // 2])  # cut, and perhaps still a list of some stages
    told(project, capsys)
    assert made.repro() == [] and lock.read_bytes() == whole


def test_a_merge_conflict_is_for_the_user(made):
    project = Project(made.root)
    lock = project.prompt_folder(ID) / "dvc.lock"
    whole = lock.read_text()
    lock.write_text("<<<<<<< HEAD\n" + whole)
    with pytest.raises(InputError, match=f"prompts/{ID}/dvc.lock has a merge conflict; delete it"):
        preflight.repair(project, ID)
    lock.write_text(whole)


def test_a_lost_cache_object_is_told_and_its_stage_runs_again(made, capsys):
    project = Project(made.root)
    lock = yaml.safe_load((project.prompt_folder(ID) / "dvc.lock").read_text())
    (entry,) = lock["stages"]["export"]["outs"]
    cache = project.root / ".dvc/cache/files/md5"
    folder = cache / entry["md5"][:2] / entry["md5"][2:]
    name = next(one["md5"] for one in json.loads(folder.read_text()) if one["relpath"] == "mesh.glb")
    lost = cache / name[:2] / name[2:]
    before = lost.read_bytes()
    lost.unlink()
    assert told(project, capsys).startswith(
        f"prolific: runs/{ID}/export is missing from DVC's cache; its stage runs again"
    )
    assert made.repro() == ["export"] and lost.read_bytes() == before and told(project, capsys) == ""


@pytest.mark.parametrize("content", ["", '{"write": {', "[]", '{"write": {"/x": 5}}'])
def test_a_broken_rwlock_is_removed(made, capsys, content):
    project = Project(made.root)
    path = project.root / ".dvc/tmp/rwlock"
    path.write_text(content)
    assert told(project, capsys) == "prolific: removed the damaged file .dvc/tmp/rwlock\n" and not path.exists()


def test_of_an_rwlock_only_what_a_living_dvc_holds_stays(made, capsys):
    """A number may have gone to another process, here to this one, which is no DVC: DVC itself would wait for it."""
    project = Project(made.root)
    path = project.root / ".dvc/tmp/rwlock"
    out = str(project.output(ID, "export"))
    mine = {"pid": os.getpid(), "cmd": "dvc repro"}
    path.write_text(json.dumps({"write": {out: mine}, "read": {out: [mine, {"pid": 2**22 + 1, "cmd": "dvc repro"}]}}))
    assert told(project, capsys) == ""
    assert json.loads(path.read_text()) == {"write": {}, "read": {out: []}}


def test_a_living_dvc_keeps_its_paths(made, capsys, monkeypatch):
    project = Project(made.root)
    path = project.root / ".dvc/tmp/rwlock"
    held = {"write": {"/x": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}
    path.write_text(json.dumps(held))
    monkeypatch.setattr(preflight, "_is_dvc", lambda pid: pid == os.getpid())
    assert told(project, capsys) == "" and json.loads(path.read_text()) == held
    path.unlink()


def test_a_truncated_checkpoint_is_removed_and_a_whole_one_stays(made, capsys):
    import torch

    from prolific_core import checkpoint

    project = Project(made.root)
    path = project.stage_state(ID, "nerf") / "checkpoints" / "key" / "state.safetensors"
    checkpoint.save(path, {"step": 3, "weights": torch.arange(100.0), "none": []})
    whole = path.read_bytes()
    assert told(project, capsys) == "" and path.exists()
    for end in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:end])
        shown = path.relative_to(project.root)
        assert (
            told(project, capsys) == f"prolific: removed the damaged file {shown}; the stage starts again\n"
            and not path.exists()
        )
    path.write_bytes(whole + b"x")
    assert not preflight.is_complete(path)
    path.unlink()
    checkpoint.save(path, {"step": 3})  # no tensor at all
    assert told(project, capsys) == ""
    path.unlink()
