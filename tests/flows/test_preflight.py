"""Detection and repair of the damage that kills and bad disks leave behind."""

import json
import os
import random

import pytest
import yaml

from flows.orchestration import preflight
from prolific_core.errors import InputError
from tasks.runtime.project import Project

ID = "a-red-mug"


def repair(project, capsys) -> str:
    preflight.repair(project, ID)
    return capsys.readouterr().err


def test_an_intact_project_stays_as_it_is(made, capsys):
    project = Project(made.root)
    lock = project.prompt_folder(ID) / "dvc.lock"
    before = lock.read_bytes()
    assert repair(project, capsys) == "" and lock.read_bytes() == before


def test_a_truncated_lock_file_is_made_again_and_nothing_runs(made, capsys):
    project = Project(made.root)
    lock = project.prompt_folder(ID) / "dvc.lock"
    whole, chance = lock.read_bytes(), random.Random(3)
    removed = 0
    for end in [0, 1, *(chance.randrange(len(whole)) for _ in range(60))]:
        lock.write_bytes(whole[:end])
        removal = f"prolific: removed the damaged file prompts/{ID}/dvc.lock"
        message = f"{removal}; DVC recreates it without running finished stages\n"
        assert repair(project, capsys) == ("" if lock.exists() else message)
        removed += not lock.exists()
    assert removed > 20
    lock.unlink(missing_ok=True)
    assert made.repro() == [] and lock.read_bytes() == whole
    lock.write_bytes(whole[: len(whole) // 2])  # truncated, and perhaps still valid
    repair(project, capsys)
    assert made.repro() == [] and lock.read_bytes() == whole


def test_a_merge_conflict_is_reported(made):
    project = Project(made.root)
    lock = project.prompt_folder(ID) / "dvc.lock"
    whole = lock.read_text()
    lock.write_text("<<<<<<< HEAD\n" + whole)
    with pytest.raises(InputError, match=f"prompts/{ID}/dvc.lock has a merge conflict; delete it"):
        preflight.repair(project, ID)
    lock.write_text(whole)


def test_a_lost_cache_object_is_reported_and_its_stage_runs_again(made, capsys):
    project = Project(made.root)
    lock = yaml.safe_load((project.prompt_folder(ID) / "dvc.lock").read_text())
    (entry,) = lock["stages"]["export"]["outs"]
    cache = project.root / ".dvc/cache/files/md5"
    folder = cache / entry["md5"][:2] / entry["md5"][2:]
    name = next(one["md5"] for one in json.loads(folder.read_text()) if one["relpath"] == "mesh.glb")
    lost = cache / name[:2] / name[2:]
    before = lost.read_bytes()
    lost.unlink()
    assert repair(project, capsys).startswith(
        f"prolific: runs/{ID}/export is missing from DVC's cache; its stage runs again"
    )
    assert made.repro() == ["export"] and lost.read_bytes() == before and repair(project, capsys) == ""


@pytest.mark.parametrize("content", ["", '{"write": {', "[]", '{"write": {"/x": 5}}'])
def test_a_broken_rwlock_is_removed(made, capsys, content):
    project = Project(made.root)
    path = project.root / ".dvc/tmp/rwlock"
    path.write_text(content)
    assert repair(project, capsys) == "prolific: removed the damaged file .dvc/tmp/rwlock\n" and not path.exists()


def test_entries_of_ended_processes_are_removed_from_the_rwlock(made, capsys):
    """A process id may belong to another process by now, here to this one, for which DVC itself would wait."""
    project = Project(made.root)
    path = project.root / ".dvc/tmp/rwlock"
    out = str(project.output(ID, "export"))
    mine = {"pid": os.getpid(), "cmd": "dvc repro"}
    path.write_text(json.dumps({"write": {out: mine}, "read": {out: [mine, {"pid": 2**22 + 1, "cmd": "dvc repro"}]}}))
    assert repair(project, capsys) == ""
    assert json.loads(path.read_text()) == {"write": {}, "read": {out: []}}


def test_entries_of_a_running_dvc_stay(made, capsys, monkeypatch):
    project = Project(made.root)
    path = project.root / ".dvc/tmp/rwlock"
    held = {"write": {"/x": {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}
    path.write_text(json.dumps(held))
    monkeypatch.setattr(preflight, "_is_dvc", lambda pid: pid == os.getpid())
    assert repair(project, capsys) == "" and json.loads(path.read_text()) == held
    path.unlink()


def test_a_truncated_checkpoint_is_removed_and_a_whole_one_stays(made, capsys):
    import torch

    from prolific_core import checkpoint

    project = Project(made.root)
    path = project.stage_state(ID, "nerf") / "checkpoints" / "key" / "state.safetensors"
    checkpoint.save(path, {"step": 3, "weights": torch.arange(100.0), "none": []})
    whole = path.read_bytes()
    assert repair(project, capsys) == "" and path.exists()
    for end in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:end])
        shown = path.relative_to(project.root)
        assert (
            repair(project, capsys) == f"prolific: removed the damaged file {shown}; the stage starts again\n"
            and not path.exists()
        )
    path.write_bytes(whole + b"x")
    assert not checkpoint.is_intact(path)
    path.unlink()
    checkpoint.save(path, {"step": 3})  # no tensor at all
    assert repair(project, capsys) == ""
    path.unlink()
