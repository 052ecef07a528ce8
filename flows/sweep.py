"""Several prompts on file, one after another, as one Prefect flow; a failure does not stop the others."""

import sys

from flows import prefect_home
from flows.generate import Result, generate
from prolific_core.errors import InputError, ProlificError
from tasks.failures import explain
from tasks.project import Project


def sweep(project: Project, ids: list[str]) -> int:
    """Bring these prompts (all, when none is named) up to date; 1 when one failed."""
    ids = ids or project.prompt_ids()
    if not ids:
        raise InputError('no prompts on file; make one: prolific generate "a red mug"')
    for id in ids:
        project.config(project.prompt(id))  # mistakes in files are told before hours of work
    prefect_home.set_up(project)
    from prefect import flow

    @flow(name="sweep", persist_result=False)
    def run(prompt_ids: list[str]) -> dict[str, Result | str]:
        return {id: _one(project, id) for id in prompt_ids}

    results = run(ids)
    failed = [id for id, result in results.items() if isinstance(result, str)]
    for id, result in results.items():
        print(f"{id:<40} {result if isinstance(result, str) else f'{result.seconds:.0f} s  {result.report}'}")
    return 1 if failed else 0


def _one(project: Project, id: str) -> Result | str:
    print(f"-- {id}", file=sys.stderr, flush=True)
    try:
        return generate(project, id)
    except (ProlificError, OSError, MemoryError) as error:
        told = explain(error) or f"{type(error).__name__}: {error}"
        return f"failed: {told}"
