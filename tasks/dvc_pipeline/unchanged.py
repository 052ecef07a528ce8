"""Status of many prompts in one process, which DVC would need half a minute per hundred for.

    python -m tasks.dvc_pipeline.unchanged a-red-mug a-blue-mug

`dvc status` reads params.yaml and hashes the same code again for every stage of every prompt. Here each of these files
is read once; everything else is DVC's own comparison.
"""

import functools
import gc
import json
import os
import subprocess
import sys

from tasks.dvc_pipeline import cli
from tasks.runtime import machine
from tasks.runtime.project import STAGES, Project


def unchanged(project: Project, ids: list[str]) -> set[str]:
    """Return the prompts of which no stage must run.

    A prompt whose files DVC cannot read is not among them, and neither is any other if DVC fails.
    """
    made = [id for id in ids if project.finished_stages(id) == len(STAGES)]
    made = [id for id in made if all((project.prompt_folder(id) / f"dvc.{end}").is_file() for end in ("yaml", "lock"))]
    if not made:
        return set()
    done = subprocess.run(
        [sys.executable, "-m", "tasks.dvc_pipeline.unchanged"],
        cwd=project.root,
        env={**cli.environment(), "PROLIFIC_ROOT": str(project.root)},
        input=json.dumps(made),
        capture_output=True,
        text=True,
    )
    try:
        return set(json.loads(done.stdout))
    except ValueError:
        return set()  # running the prompts will report the error


def _read_once() -> None:
    """Make DVC read each file of parameters, and hash each dependency, once in this process."""
    from dvc.dependency import base, param

    read, hashed = param.load_path, {}

    @functools.cache
    def load_path(path, fs):
        return read(path, fs)

    def get_hash(self):
        if self.fs_path not in hashed:
            hashed[self.fs_path] = super(base.Dependency, self).get_hash()  # pyright: ignore
        return hashed[self.fs_path]

    param.load_path = load_path
    base.Dependency.get_hash = get_hash  # pyright: ignore[reportAttributeAccessIssue]


def main() -> None:
    machine.die_with_parent()
    ids = json.load(sys.stdin)
    pipelines = {id: f"prompts/{id}/dvc.yaml" for id in ids}
    cli.read_only(*pipelines.values())
    cli.look_up_parameters()
    _read_once()
    gc.set_threshold(100_000)  # a tenth of the time would go to looking for garbage
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    found = []
    with Repo(".", _wait_for_lock=True) as repo:  # pyright: ignore[reportCallIssue]
        for id, pipeline in pipelines.items():
            try:
                if not repo.status([pipeline]):  # pyright: ignore
                    found.append(id)
            except DvcException:
                continue
    os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, json.dumps(found).encode())


if __name__ == "__main__":
    main()
    machine.exit_now(0)
