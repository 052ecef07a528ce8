"""Prompts of a sweep that are finished, found without a run of each.

    echo '["a-red-mug", "a-blue-mug"]' | python -m flows.orchestration.up_to_date

A run of a finished prompt takes about two seconds. Here many prompts are checked in each of a few processes.
"""

import contextlib
import json
import os
import subprocess
import sys
from tempfile import TemporaryFile

from flows.orchestration import preflight
from flows.reporting import report
from prolific_core.errors import ProlificError
from tasks.dvc_pipeline import pipeline
from tasks.dvc_pipeline.unchanged import unchanged
from tasks.runtime import machine
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import STAGES, Project

SHARE = 20  # prompts per process: to check them takes as long as to start it
PROCESSES = 8  # more would take memory from the stages of other sweeps


def up_to_date(project: Project, ids: list[str]) -> set[str]:
    """Return the prompts that have all outputs and of which no stage must run.

    Damaged outputs are removed, as before every run, DVC compares parameters, inputs and code, and old reports are
    written again. A prompt that cannot be checked, or of which a run is in progress, is not in the result: its own run
    waits, or reports the mistake.
    """
    made = [id for id in ids if project.finished_stages(id) == len(STAGES)]
    count, checks = min(_processors(), PROCESSES, -(-len(made) // SHARE)), []
    try:
        for part in range(count):
            checks.append(_start(project, made[part::count]))
        return {id for check in checks for id in _answer(check)}
    finally:
        for check in checks:
            check.kill()  # has no effect on a process that has ended
            check.wait()


def _start(project: Project, ids: list[str]) -> subprocess.Popen:
    with TemporaryFile("w+") as file:  # a pipe would need a second thread
        json.dump(ids, file)
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-m", "flows.orchestration.up_to_date"],
            cwd=project.root,
            env={**os.environ, "PROLIFIC_ROOT": str(project.root)},
            stdin=file,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches only the sweep, which stops its checks
        )


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _answer(check: subprocess.Popen) -> list[str]:
    assert check.stdout is not None
    with check.stdout, contextlib.suppress(ValueError):  # the runs of the prompts will report an error
        return json.load(check.stdout)
    return []


def main() -> None:
    machine.die_with_parent()
    project, intact = Project.find(), []
    for id in json.load(sys.stdin):
        try:
            with prompt_lock(project, id):
                prompt = preflight.check(project, id, device=False)
                pipeline.refresh(project, prompt.prompt)
                preflight.repair(project, id)
        except ProlificError:
            continue
        intact.append(id)
    found = unchanged(project, intact)
    for id in found:
        report.update(project.resolve(id))
    print(json.dumps(sorted(found)), flush=True)


if __name__ == "__main__":
    main()
    machine.exit_now(0)
