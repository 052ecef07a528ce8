"""`prolific sweep`: many prompts as one Prefect flow with a run per prompt; a failure does not stop the others."""

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from flows.generate import Result, check, generate
from flows.orchestration import artifacts, dvc_runner, prefect_runtime, run_status
from flows.orchestration.run_status import Outcome
from flows.prompt_store import sets
from flows.reporting.sweep_progress import Board
from prolific_core.errors import InputError
from tasks.runtime.failures import explain
from tasks.runtime.project import Project
from tasks.tracking.tracker import prepare

TAIL = 5  # last lines of a failed stage's log, in the summary

Run = Callable[[str, Board], Result | None]  # bring one prompt up to date, showing it on the board


@dataclass(frozen=True)
class Row:
    """How one prompt of a sweep ended. state: done, failed, or waiting (never started)."""

    id: str
    state: str
    seconds: float = 0.0
    message: str = ""
    log: str = ""
    page: str | None = None


def sweep(
    project: Project,
    names: list[str],
    *,
    workers: int = 1,
    pool: str | None = None,
    only_failed: bool = False,
    max_failures: int | None = None,
) -> int:
    """Bring prompts (all, when none is named) up to date; the exit status, 1 when one failed.

    workers: prompts at once on this machine; pool: a Prefect work pool whose workers run them instead.
    max_failures: after so many, no more are started.
    """
    ids = choose(project, names, only_failed)
    if not ids:
        print("nothing to do: no prompt failed or was interrupted")
        return 0
    prepare()
    prefect_runtime.set_up(project)
    rows = prefect_runtime.as_flow(
        "sweep", f"{len(ids)} prompts", lambda: run(project, names, ids, workers, pool, max_failures)
    )
    print(summary(project, rows))
    return 0 if all(row.state == "done" for row in rows) else 1


def choose(project: Project, names: list[str], only_failed: bool) -> list[str]:
    """The ids to run; every mistake in their files is told now, before hours of work."""
    ids = sets.select(project, names)
    if not ids:
        raise InputError('no prompts on file; make one: prolific prompts add "a red mug"')
    if only_failed:
        ids = [id for id in ids if run_status.unfinished(project, id)]
    for id in ids:
        check(project, id)
    return ids


def run(
    project: Project, names: list[str], ids: list[str], workers: int, pool: str | None, max_failures: int | None
) -> list[Row]:
    """The body of the flow: all prompts `ids` of what was named, each started when there is room for it."""
    for id in ids:
        run_status.write(project, id, Outcome("waiting"))
    one: Run = lambda id, board: generate(project, id, board.console(id), names)  # noqa: E731
    if pool is not None:
        from flows.orchestration import work_pool as pool_runs

        workers, one = pool_runs.AT_ONCE, pool_runs.runner(project, pool, names)
    sweeping = _Sweep(project, ids, one, max_failures)
    with sweeping.board:
        _threads(sweeping.bring_up_to_date, ids, workers)
    rows = [sweeping.rows.get(id, Row(id, "waiting")) for id in ids]
    artifacts.table("sweep-results", [_cells(row) for row in rows], _counts(rows))
    return rows


class _Sweep:
    def __init__(self, project: Project, ids: list[str], one: Run, max_failures: int | None):
        self.project, self.total, self.one, self.max_failures = project, len(ids), one, max_failures
        self.board = Board(len(ids))
        self.rows: dict[str, Row] = {}
        self._progress: dict = {}
        self._lock = threading.Lock()

    def bring_up_to_date(self, id: str) -> None:
        failures = sum(row.state == "failed" for row in self.rows.values())
        if dvc_runner.stopping.is_set() or (self.max_failures is not None and failures >= self.max_failures):
            return
        row = self._row(id)
        told = f"{row.state} after {row.seconds:.0f} s"
        with self._lock:
            self.rows[id] = row
            self.board.end(id, row.state, told)
            artifacts.progress("sweep-progress", len(self.rows) / self.total, f"{self.total} prompts", self._progress)

    def _row(self, id: str) -> Row:
        began = time.monotonic()
        try:
            result = self.one(id, self.board)
        except Exception as error:  # whatever it is, the others go on
            found = run_status.read(self.project, id) or Outcome(
                "failed"
            )  # a worker on this machine left the log's path
            told = (explain(error) or f"unexpected {type(error).__name__}: {error}").splitlines()[0]
            return Row(id, "failed", time.monotonic() - began, told, found.log)
        return Row(id, "done", time.monotonic() - began, page=getattr(result, "page", None))


def _threads(work: Callable[[str], None], ids: list[str], count: int) -> None:
    """Do the work for every id, so many at once; when we are stopped, all that runs is stopped too."""
    with ThreadPoolExecutor(max(1, min(count, len(ids)))) as pool:
        # Each with our context, in which Prefect finds the flow that its runs belong to.
        futures = [pool.submit(contextvars.copy_context().run, work, id) for id in ids]
        try:
            wait(futures)
        except BaseException:
            dvc_runner.stopping.set()
            pool.shutdown(cancel_futures=True)
            raise
    for future in futures:
        future.result()


def summary(project: Project, rows: list[Row]) -> str:
    """A line per prompt, then each failure with the last lines of its log."""
    width = max(len(row.id) for row in rows)
    lines = []
    for row in rows:
        what = {
            "done": f"done {row.seconds:7.0f} s",
            "failed": f"failed {row.seconds:5.0f} s",
            "waiting": "not started",
        }[row.state]
        lines.append(f"{row.id:<{width}}  {what}")
    for row in rows:
        if row.state == "failed":
            lines += ["", f"{row.id}: {row.message}"]
            if row.log:
                lines += [
                    f"  the end of {row.log}:",
                    *(f"    {line}" for line in dvc_runner.tail(project.root / row.log, TAIL)),
                ]
    if any(row.state != "done" for row in rows):
        lines += ["", f"{_counts(rows)}; to go on: prolific sweep --only-failed"]
    else:
        lines.append(f"{_counts(rows)}; reports/<id>.html shows each, prolific ui compares them")
    return "\n".join(lines)


def _counts(rows: list[Row]) -> str:
    names = {"done": "done", "failed": "failed", "waiting": "not started"}
    counts = {said: sum(row.state == state for row in rows) for state, said in names.items()}
    return f"{len(rows)} {'prompt' if len(rows) == 1 else 'prompts'}: " + ", ".join(
        f"{count} {said}" for said, count in counts.items() if count
    )


def _cells(row: Row) -> dict:
    link = f"[run]({row.page})" if row.page else ""
    return {
        "prompt": row.id,
        "state": row.state,
        "seconds": round(row.seconds, 1),
        "failure": row.message,
        "MLflow": link,
    }
