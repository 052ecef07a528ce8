"""Where Prefect enters by itself: deployments (prefect.yaml) and `prefect flow-run retry`.

prefect flow-run retry RUN --entrypoint flows/deployed.py:generate
"""

from prefect import flow, runtime

from flows.generate import make
from flows.prompt_store import create
from flows.sweep import choose, run, summary
from prolific_core.errors import ProlificError
from prolific_core.prompts import DEFAULT_PRESET
from tasks.runtime.project import Project


def _name() -> str:
    parameters = runtime.flow_run.parameters
    return (parameters.get("id") or parameters.get("text") or "generate")[:60]


@flow(name="generate", flow_run_name=_name, persist_result=False)
def generate(
    id: str | None = None,
    text: str | None = None,
    preset: str = DEFAULT_PRESET,
    seed: int = 0,
    sweep: list[str] | None = None,
) -> None:
    """A prompt on file by its id, or a new one by its text; a run that was cut off goes on. sweep: what it names, if it is of one."""
    project = Project.find()
    if id is None:
        id = create.file_prompt(project, text or "", preset=preset, seed=seed).id
    make(project, id, sweep=sweep)


@flow(name="sweep", persist_result=False)
def sweep(
    names: list[str] | None = None,
    pool: str | None = None,
    workers: int = 1,
    only_failed: bool = False,
    max_failures: int | None = None,
) -> None:
    """As `prolific sweep`; names: ids, sets or patterns (none: every prompt)."""
    project = Project.find()
    rows = run(project, names or [], choose(project, names or [], only_failed), workers, pool, max_failures)
    if any(row.state != "done" for row in rows):
        raise ProlificError(summary(project, rows))
    print(summary(project, rows))
