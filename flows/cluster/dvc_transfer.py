"""Transfer of prompts' outputs and of their state between a clone and DVC's remote.

    python -m flows.cluster.dvc_transfer pull a-red-mug a-blue-mug

The state of a stage is in .state/, which DVC does not see. While it travels, it is a folder that DVC tracks,
prompts/<id>/state, described by prompts/<id>/state.dvc. It contains the records of each stage, which MLflow's runs
are made from, and the checkpoints of a stage that was interrupted.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.cluster.git import patiently
from prolific_core.errors import ProlificError
from tasks.dvc_pipeline import cli
from tasks.runtime import machine
from tasks.runtime.failures import reported
from tasks.runtime.project import STAGES, Project
from tasks.runtime.unrecorded import link_tree

STATE = "state"  # name of the folder that travels, and of its .dvc file
MISSING = 3  # exit status if the remote does not have all objects


class TransferFailed(ProlificError):
    """Error raised when DVC could not reach its remote."""


def pull(project: Project, ids: list[str]) -> bool:
    """Fetch the outputs and the state of prompts, and return whether DVC's remote had all of them.

    A network that drops for a minute is waited for.
    """
    return patiently(lambda: _run(project, "pull", ids), (TransferFailed,)) == 0


def push(project: Project, ids: list[str], state: bool = True) -> None:
    """Push the outputs and, by default, the state of prompts. A network that drops for a minute is waited for."""
    for id in ids if state else []:
        _collect_state(project, id)
    patiently(lambda: _run(project, "push", ids), (TransferFailed,))


def _run(project: Project, action: str, ids: list[str]) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cluster.dvc_transfer", action, *ids],
        cwd=project.root,
        env={**cli.environment(), "PROLIFIC_ROOT": str(project.root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # a signal to this process's group must not interrupt a transfer
    )
    if done.returncode not in (0, MISSING):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("prolific: ")
        raise TransferFailed(f"`dvc {action}` failed: {last}")
    return done.returncode


def _collect_state(project: Project, id: str) -> None:
    """Copy a prompt's state to the folder that travels, with hard links where possible."""
    folder = project.prompt_folder(id) / STATE
    shutil.rmtree(folder, ignore_errors=True)
    for stage in STAGES:
        state = project.stage_state(id, stage)
        if (state / "records.jsonl").is_file():
            (folder / stage).mkdir(parents=True)
            shutil.copyfile(state / "records.jsonl", folder / stage / "records.jsonl")  # a stage may append to it
            for name in ("checkpoints", "kept"):
                if (state / name).is_dir():
                    link_tree(state / name, folder / stage / name)


def install_state(project: Project, id: str) -> None:
    """Move a prompt's state from the folder that has travelled to .state/."""
    folder = project.prompt_folder(id) / STATE
    for source in sorted(folder.glob("*/")):
        target = project.stage_state(id, source.name)
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.iterdir()):
            place = target / path.name
            if place.is_dir():
                shutil.rmtree(place)
            shutil.move(path, place)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".dvc").unlink(missing_ok=True)


def _dvc(action: str, ids: list[str]) -> int:
    machine.disable_telemetry()
    os.environ.update(cli.environment())
    project = Project.find()
    os.chdir(project.root)
    pipelines = [f"prompts/{id}/dvc.yaml" for id in ids if (project.prompt_folder(id) / "dvc.lock").is_file()]
    states = [f"prompts/{id}/{STATE}.dvc" for id in ids]
    cli.read_only(*pipelines)
    from dvc.exceptions import CheckoutError
    from dvc.repo import Repo

    with Repo(".", _wait_for_lock=True) as repo:  # pyright: ignore[reportCallIssue]
        if action == "push" and (
            folders := [path[: -len(".dvc")] for path in states if Path(path[: -len(".dvc")]).is_dir()]
        ):
            repo.add(folders)  # pyright: ignore
        targets = [*pipelines, *(path for path in states if Path(path).is_file())]
        if not targets:
            return 0
        cli.read_only(*targets)
        repo._reset()
        if action == "push":
            repo.push(targets)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            return 0
        try:
            repo.pull(targets, force=True, allow_missing=True)  # pyright: ignore
        except CheckoutError:
            return MISSING
    return 0 if all(_has_outputs(project, id) for id in ids) else MISSING


def _has_outputs(project: Project, id: str) -> bool:
    import yaml

    path = project.prompt_folder(id) / "dvc.lock"
    locked = yaml.safe_load(path.read_bytes()) if path.is_file() else None
    outs = [out["path"] for stage in (locked or {}).get("stages", {}).values() for out in stage.get("outs", [])]
    return all((project.root / out).exists() for out in outs)


def main(arguments: list[str]) -> int:
    return reported(lambda: _dvc(arguments[0], arguments[1:]))


if __name__ == "__main__":
    machine.exit_now(main(sys.argv[1:]))
