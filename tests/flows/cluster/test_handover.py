"""Revisions that a head sends and results that workers hand back, without Prefect."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cluster import dvc_transfer, git, handover, head, revision, workspace
from prolific_core.errors import InputError, ProlificError
from tasks.runtime.project import STAGES, Project
from tests.support import clusters


@pytest.fixture(scope="module")
def remotes(made_once, tmp_path_factory) -> tuple[Path, Path]:
    """Finished project with a git and a DVC remote; the project and the folder of the remotes."""
    folder = tmp_path_factory.mktemp("remotes")
    shutil.copytree(made_once.root, folder / "head")
    clusters.make_remotes(folder / "head", folder)
    return folder / "head", folder


@pytest.fixture
def finished(remotes, tmp_path, monkeypatch) -> Project:
    """Copy of that project, in which commands run."""
    shutil.copytree(remotes[0], tmp_path / "head", symlinks=True)
    shutil.copytree(remotes[1] / "repository.git", tmp_path / "repository.git")
    clusters.git(tmp_path / "head", "remote", "set-url", "origin", str(tmp_path / "repository.git"))
    config = tmp_path / "head" / ".dvc" / "config"
    config.write_text(config.read_text().replace(str(remotes[1]), str(tmp_path)))
    clusters.git(tmp_path / "head", "commit", "--quiet", "--all", "--message", "Other remotes")
    monkeypatch.setenv("PROLIFIC_ROOT", str(tmp_path / "head"))
    return Project(tmp_path / "head")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_revision_holds_the_files_as_they_are_and_depends_on_nothing_else(finished):
    root = finished.root
    clean = revision.snapshot(root)
    assert clean == clusters.git(root, "rev-parse", "HEAD")
    (root / "prompts" / "new").mkdir()
    (root / "prompts" / "new" / "prompt.yaml").write_text("id: new\n")
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "# edited\n")
    (root / "secrets.env").write_text("PASSWORD=1\n")
    before = clusters.git(root, "status", "--porcelain")
    sent = revision.snapshot(root)
    assert sent == revision.snapshot(root) != clean
    assert clusters.git(root, "status", "--porcelain") == before
    assert clusters.git(root, "diff", "--name-only", clean, sent).split() == ["params.yaml", "prompts/new/prompt.yaml"]


def test_a_worker_takes_over_what_another_has_handed_over(finished, tmp_path, monkeypatch):
    sent = revision.publish(finished)
    made = contents(finished.root / "runs")
    checkpoint = finished.stage_state("a-red-mug", "nerf") / "checkpoints" / "key" / "state"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("step 5")
    records = finished.stage_state("a-red-mug", "nerf") / "records.jsonl"
    records.parent.mkdir(parents=True, exist_ok=True)
    assert records.is_file()
    commit = handover.send(finished, "a-red-mug", sent, "", complete=False)
    assert commit != sent
    assert handover.read(finished, commit).stages == len(STAGES)

    worker = Project(tmp_path / "worker")
    workspace.prepare(worker.root, git.url(finished.root), sent)
    assert clusters.git(worker.root, "rev-parse", "HEAD") == sent
    monkeypatch.setenv("PROLIFIC_ROOT", str(worker.root))
    assert handover.fetch(worker, "a-red-mug") == commit
    handover.write_files(worker, "a-red-mug", commit)
    assert dvc_transfer.pull(worker, ["a-red-mug"])
    dvc_transfer.install_state(worker, "a-red-mug")
    assert contents(worker.root / "runs") == made
    assert (worker.stage_state("a-red-mug", "nerf") / "checkpoints" / "key" / "state").read_text() == "step 5"
    assert (worker.stage_state("a-red-mug", "nerf") / "records.jsonl").read_bytes() == records.read_bytes()
    assert not (worker.prompt_folder("a-red-mug") / "state").exists()

    # A remote that has lost objects is noticed, and is no error: the stages run again.
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(worker.root / ".dvc" / "cache")
    shutil.rmtree(worker.root / "runs")
    handover.write_files(worker, "a-red-mug", commit)
    assert not dvc_transfer.pull(worker, ["a-red-mug"])


def test_a_complete_prompt_is_never_replaced(finished, monkeypatch):
    monkeypatch.setattr(dvc_transfer, "push", lambda *_: None)
    sent = revision.publish(finished)
    first = handover.send(finished, "a-red-mug", sent, "", complete=False)
    # A worker that has not seen the first hand-over goes on from it, because it owns the prompt now.
    second = handover.send(finished, "a-red-mug", sent, "", complete=True)
    assert handover.fetch(finished, "a-red-mug") == second != first
    # A worker that was thought to be dead does not replace it.
    assert handover.send(finished, "a-red-mug", sent, first, complete=False) == second
    assert handover.fetch(finished, "a-red-mug") == second
    assert handover.is_complete(finished, second, sent)
    assert not handover.is_complete(finished, second, "another")


def test_the_head_collects_together_and_reports_what_is_missing(finished, monkeypatch):
    pulled = []
    monkeypatch.setattr(dvc_transfer, "push", lambda *_: None)
    monkeypatch.setattr(dvc_transfer, "pull", lambda project, ids: pulled.append(ids))
    monkeypatch.setattr(head.report, "write", lambda prompt: None)
    sent = revision.publish(finished)
    handover.send(finished, "a-red-mug", sent, "", complete=True)
    (finished.prompt_folder("a-red-mug") / "dvc.lock").unlink()
    collector = head.Collector(finished, sent)
    collector._waiting = ["lost"]
    collector.collect("a-red-mug")
    assert pulled == [["a-red-mug"]]
    assert (finished.prompt_folder("a-red-mug") / "dvc.lock").is_file()
    with pytest.raises(ProlificError, match="the run of lost has completed, but its results were not handed over"):
        collector.collect("lost")
    shutil.rmtree(finished.root / "runs" / "a-red-mug" / "export")
    with pytest.raises(ProlificError, match="DVC's remote does not have all outputs of a-red-mug"):
        collector.collect("a-red-mug")


def test_a_network_that_drops_is_waited_for(finished, monkeypatch):
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            clusters.git(finished.root, "remote", "set-url", "origin", address)

    monkeypatch.setattr(git.time, "sleep", sleep)
    address = git.url(finished.root)
    clusters.git(finished.root, "remote", "set-url", "origin", "/nowhere")
    revision.publish(finished)
    assert waited == list(git.WAITS[:2])
    clusters.git(finished.root, "remote", "set-url", "origin", "/nowhere")
    with pytest.raises(git.GitFailed, match="`git push` failed"):
        revision.publish(finished)
    assert sum(waited[2:]) > 60


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "need a git remote named 'origin'"), ("https://me:secret@host/x.git", "contains a password")],
)
def test_a_repository_that_workers_cannot_use_is_refused(finished, address, message):
    clusters.git(finished.root, "remote", "remove", "origin")
    if address:
        clusters.git(finished.root, "remote", "add", "origin", address)
    with pytest.raises(InputError, match=message) as refused:
        git.url(finished.root)
    assert "secret" not in str(refused.value)


def test_a_workspace_survives_kills_and_keeps_one_prompt(finished, tmp_path):
    sent = revision.publish(finished)
    root = tmp_path / "worker"
    (tmp_path / ".worker.partial").mkdir()  # of a clone that was killed
    root.mkdir()
    for _ in range(2):
        workspace.prepare(root, git.url(finished.root), sent)
        (root / "prompts" / "left").mkdir()
        (root / "params.yaml").write_text("edited")
        (root / ".git" / "index.lock").touch()
    workspace.prepare(root, git.url(finished.root), sent)
    assert not (root / "prompts" / "left").exists()
    assert (root / "params.yaml").read_bytes() == (finished.root / "params.yaml").read_bytes()
    for name in ("runs/old/nerf", "runs/new/nerf", ".state/old", ".state/mlflow/outbox", ".dvc/cache/files"):
        (root / name).mkdir(parents=True)
    (root / ".state" / "old" / "status.json").touch()
    workspace.keep_only(root, "new")
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["new"]
    assert not (root / ".state" / "old").exists()
    assert (root / ".state" / "mlflow" / "outbox").is_dir()
    assert not (root / ".dvc" / "cache" / "files").exists()


def test_the_step_of_a_deployment_names_what_is_not_set(finished):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cluster.workspace"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 2
    assert "PROLIFIC_WORKSPACE, PROLIFIC_REPOSITORY, PROLIFIC_REVISION must be set" in done.stderr
