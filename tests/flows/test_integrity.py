"""A file that changed after it was made is found by its digest, whatever its modification time, and made again."""

import json
import os
from pathlib import Path

import pytest
import yaml

from flows.orchestration import preflight
from tasks.runtime.project import Project

ID = "a-red-mug"


def flip(path: Path) -> None:
    """Change one bit of a file, and keep its size, permissions and modification time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cached(project: Project, stage: str, name: str) -> Path:
    """Return the path of a file's object in DVC's cache."""
    lock = yaml.safe_load((project.prompt_folder(ID) / "dvc.lock").read_text())
    cache = project.root / ".dvc/cache/files/md5"
    (out,) = lock["stages"][stage]["outs"]
    listed = json.loads((cache / out["md5"][:2] / out["md5"][2:]).read_text())
    md5 = next(one["md5"] for one in listed if one["relpath"] == name)
    return cache / md5[:2] / md5[2:]


def repair(made, capsys) -> str:
    preflight.repair(Project(made.root), ID)
    return capsys.readouterr().err


def contents(made) -> dict:
    return {path: path.read_bytes() for path in (made.root / "runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("stage", "name"), [("export", "mesh.glb"), ("nerf", "result.json"), ("nerf", "manifest.json")]
)
def test_a_flipped_bit_in_an_output_is_restored_from_the_cache(made, capsys, stage, name):
    before = contents(made)
    flip(made.root / "runs" / ID / stage / name)
    verified = made.prolific("verify")
    assert verified.returncode == 1 and verified.stdout.startswith(f"runs/{ID}/{stage}/{name} ")
    assert verified.stdout.splitlines()[-1].endswith(f"are damaged; to make them again, run: prolific sweep {ID}")
    assert contents(made) != before  # verifying changes nothing
    report = repair(made, capsys)
    assert report.startswith(f"prolific: runs/{ID}/{stage}/{name} ") and report.count("\n") == 1
    assert made.repro() == [] and contents(made) == before
    assert made.prolific("verify", ID).returncode == 0 and repair(made, capsys) == ""


def test_a_damaged_object_in_the_cache_is_not_restored(made, capsys):
    before = contents(made)
    path = cached(Project(made.root), "geometry", "result.json")
    flip(path)
    verified = made.prolific("verify")
    assert verified.returncode == 1
    assert verified.stdout.startswith(
        f"{path.relative_to(made.root)} differs from its name; belongs to runs/{ID}/geometry"
    )
    flip(made.root / "runs" / ID / "geometry" / "result.json")  # DVC would restore it from the damaged object
    assert "removed a damaged object from DVC's cache" in repair(made, capsys)
    assert made.repro() == ["geometry"] and contents(made) == before
    assert made.prolific("verify").stdout.endswith("all are as they were made\n")


def test_generate_repairs_what_it_finds(made, prefect_server):
    before = contents(made)
    flip(cached(Project(made.root), "export", "mesh.glb"))
    (made.root / "runs" / ID / "export" / "mesh.glb").write_bytes(b"")
    (made.root / "ran.log").unlink(missing_ok=True)
    done = made.prolific("generate", "a red mug", **prefect_server)
    assert done.returncode == 0 and "mesh.glb has been modified" in done.stderr, done.stderr
    assert made.ran() == ["export"] and contents(made) == before


def test_an_unreadable_prompt_is_not_taken_for_verified(made):
    lock = made.root / "prompts" / ID / "dvc.lock"
    whole = lock.read_text()
    lock.write_text("<<<<<<< HEAD\n" + whole)
    done = made.prolific("verify")
    lock.write_text(whole)
    assert done.returncode == 1 and f"{ID} is not verified: prompts/{ID}/dvc.lock has a merge conflict" in done.stderr
