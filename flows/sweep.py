"""Flow that runs the flow `generate` for many prompts and continues if some of them fail."""

import contextlib
import contextvars
import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prefect import flow
from prefect.runtime import flow_run

from flows.cluster import head
from flows.generate import generate
from flows.orchestration import artifacts, dvc_runner, preflight, run_status, work_pool
from flows.orchestration.prefect_runtime import run_flow
from flows.orchestration.prompt_run import Result
from flows.orchestration.run_status import RunStatus
from flows.orchestration.up_to_date import up_to_date
from flows.prompt_store import sets
from flows.reporting import gallery, report
from flows.reporting.sweep_progress import Board
from prolific_core.errors import ProlificError
from tasks.runtime.console import announce, new_console
from tasks.runtime.failures import explain
from tasks.runtime.gpus import visible
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import STAGES, Project
from tasks.tracking.prompt_runs import Group, PromptRuns
from tasks.tracking.tracker import Tracker

TAIL = 5  # number of log lines shown in the summary for a failed stage
PATIENCE = 3.0  # seconds that an interrupted sweep on a pool waits for the Prefect server

RunPrompt = Callable[[str, Board], Result | None]  # brings one prompt up to date and shows its progress on the board


class SweepFailed(ProlificError):
    """Error raised if a prompt failed or was not started. Its message is the summary of the sweep."""


@dataclass(frozen=True)
class Row:
    """Outcome of one prompt in a sweep, with the state "done", "failed" or "waiting" (never started).

    `seconds` is the sum over the stages of a finished model, or the time until a failure.
    """

    id: str
    state: str
    seconds: float = 0.0
    message: str = ""
    log: str = ""
    page: str | None = None


def _run_name() -> str:
    return sets.title(flow_run.parameters.get("names") or [])[:60]


@flow(flow_run_name=_run_name, persist_result=False)
def sweep(
    names: list[str] | None = None,
    pool: str | None = None,
    workers: int = 1,
    only_failed: bool = False,
    max_failures: int | None = None,
) -> str:
    """Bring the prompts that match `names` (by default all prompts) up to date, and return a summary.

    If `pool` is given, the prompts run on this Prefect work pool. Otherwise up to `workers` prompts run on this machine
    at the same time. No more prompts are started after `max_failures` failures. Raises SweepFailed if any
    prompt did not finish.
    """
    project, names = Project.find(), names or []
    ids = preflight.choose(project, names, only_failed)
    rows = _run(project, names, ids, pool, workers, max_failures)
    text = summary(project, rows)
    if any(row.state != "done" for row in rows):
        raise SweepFailed(text)
    return text


def _run(
    project: Project, names: list[str], ids: list[str], pool: str | None, workers: int, max_failures: int | None
) -> list[Row]:
    has_clones = pool is not None and head.CLONES in work_pool.deployment(pool).tags
    for id in ids:
        run_status.write(project, id, RunStatus("waiting"))
    finished = _finished(project, names, ids, tracked_here=not has_clones)
    left = [id for id in ids if id not in finished]
    submission = None
    if pool is None or not left:
        run_prompt = _local_runner(names, workers)
    else:
        # Workers share this folder or have clones of their own.
        submission = head.FromClones(project, names, left) if has_clones else work_pool.Submission(names)
        workers, run_prompt = work_pool.MAX_RUNS, work_pool.runner(project, pool, submission)
    state = _Sweep(project, finished, len(ids), run_prompt, max_failures)
    state.show_progress()
    with state.board:
        _threads(
            state.bring_up_to_date,
            left,
            workers,
            lambda: state.board.say(_farewell(state.board, pool)),
            (lambda: work_pool.give_up(state.board)) if pool else None,
        )
    if submission:
        submission.finish()
    rows = [state.rows.get(id, Row(id, "waiting")) for id in ids]
    artifacts.table("sweep-results", [_cells(row) for row in rows], _counts(rows))
    return rows


def _finished(project: Project, names: list[str], ids: list[str], tracked_here: bool) -> dict[str, Row]:
    """Return the rows of the prompts that need no run.

    If the runs are tracked on this machine, MLflow must have received them in the experiment of this sweep.
    """
    if any(project.finished_stages(id) == len(STAGES) for id in ids):
        announce("checking with DVC which prompts are finished")
    finished, experiment = up_to_date(project, ids), sets.experiment(project, names)
    rows = {}
    for id in filter(finished.__contains__, ids):
        # A prompt that is edited, removed or run at this moment is left to its own run, which waits or reports it.
        with contextlib.suppress(ProlificError, OSError), prompt_lock(project, id):
            tracker = Tracker(project, PromptRuns(project.resolve(id), Group(experiment, [])))
            if tracked_here and not tracker.has_outputs(list(STAGES)):
                continue
            seconds = report.model_seconds(project, id)
            run_status.write(project, id, RunStatus("done", seconds=seconds))
            rows[id] = Row(id, "done", seconds or 0.0, page=tracker.address())
    if rows:
        gallery.write(project)
        announce(f"finished prompts: {len(rows)} of {len(ids)}")
    return rows


def _local_runner(names: list[str], workers: int) -> RunPrompt:
    """Return a function that runs prompts on this machine, of which `workers` at a time share its GPUs evenly."""
    gpus: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for _, gpu in zip(range(workers), itertools.cycle(visible() or [None])):
        gpus.put(gpu)

    def run_prompt(id: str, board: Board) -> Result:
        board.show(id, "checking")
        new_console.set(board.console(id))  # applies to this thread only
        dvc_runner.use_gpu.set(gpu := gpus.get())
        try:
            return run_flow(generate, id, sweep=names)
        finally:
            gpus.put(gpu)

    return run_prompt


class _Sweep:
    def __init__(
        self, project: Project, finished: dict[str, Row], total: int, run_prompt: RunPrompt, max_failures: int | None
    ):
        self.project, self.total, self.run_prompt, self.max_failures = project, total, run_prompt, max_failures
        self.board = Board(total, done=len(finished))
        self.rows = dict(finished)
        self._progress: dict = {}
        self._lock = threading.Lock()

    def bring_up_to_date(self, id: str) -> None:
        failures = self.board.counts["failed"]
        if dvc_runner.stopping.is_set() or (self.max_failures is not None and failures >= self.max_failures):
            return
        row = self._row(id)
        with self._lock:
            self.rows[id] = row
            outcome = "done, made in" if row.state == "done" else "failed after"
            self.board.end(id, row.state, f"{outcome} {row.seconds:.0f} s")
            self.show_progress()

    def show_progress(self) -> None:
        artifacts.progress("sweep-progress", len(self.rows) / self.total, f"{self.total} prompts", self._progress)

    def _row(self, id: str) -> Row:
        began = time.monotonic()
        try:
            result = self.run_prompt(id, self.board)
        except Exception as error:  # an error must not stop the other prompts
            status = run_status.read(self.project, id)  # contains the log's path if the prompt ran on this machine
            message = (explain(error) or f"unexpected {type(error).__name__}: {error}").splitlines()[0]
            return Row(id, "failed", time.monotonic() - began, message, status.log if status else "")
        status = run_status.read(self.project, id)  # of this sweep, which has reset it
        known = status.seconds if status and status.state == "done" else None
        seconds = time.monotonic() - began if known is None else known
        return Row(id, "done", seconds, page=getattr(result, "page", None))


def _farewell(board: Board, pool: str | None) -> str:
    """Return a message on what happens to the running prompts after an interruption."""
    running = len(board.running)
    if pool:
        what = f"cancelling all runs on pool '{pool}', of which {running} {'is' if running == 1 else 'are'} running"
    else:
        what = f"stopping {running} running {'prompt' if running == 1 else 'prompts'}"
    return f"{what};\nfinished stages and checkpoints are kept"


def _threads(
    work: Callable[[str], None],
    ids: list[str],
    count: int,
    interrupted: Callable[[], None] = lambda: None,
    left_behind: Callable[[], None] | None = None,
) -> None:
    """Call `work` for every id in `count` threads.

    If this thread is interrupted, `interrupted` is called, and all running stages are stopped. The threads are then
    waited for, but only for PATIENCE seconds if `left_behind` is given: it is called if a thread has not ended, because
    a request to a server that has fallen silent lasts for minutes. That thread ends with the process.
    """
    jobs: queue.SimpleQueue[tuple[contextvars.Context, str]] = queue.SimpleQueue()
    for id in ids:  # Prefect stores the parent flow run in the context, so each call runs in a copy of this context.
        jobs.put((contextvars.copy_context(), id))
    errors: list[BaseException] = []

    def run(ended: threading.Event) -> None:
        with contextlib.suppress(queue.Empty):
            while not dvc_runner.stopping.is_set():
                context, id = jobs.get_nowait()
                try:
                    context.run(work, id)
                except BaseException as error:
                    errors.append(error)
        ended.set()

    # If a signal interrupts Thread.join, CPython 3.11 marks the running thread as ended, so wait for events instead.
    all_ended = [threading.Event() for _ in range(max(1, min(count, len(ids))))]
    for ended in all_ended:
        threading.Thread(target=run, args=(ended,), daemon=True).start()
    try:
        for ended in all_ended:
            ended.wait()
    except BaseException:
        interrupted()
        dvc_runner.stopping.set()
        end = time.monotonic() + PATIENCE
        for ended in all_ended:
            ended.wait(max(0.0, end - time.monotonic()) if left_behind else None)
        if left_behind and not all(ended.is_set() for ended in all_ended):
            left_behind()
        raise
    if errors:
        raise errors[0]


def summary(project: Project, rows: list[Row]) -> str:
    """Return a summary with one line per prompt, followed by the failures and the last lines of their logs."""
    width = max((len(row.id) for row in rows), default=0)
    outcomes = {"done": "done {:7.0f} s", "failed": "failed {:5.0f} s", "waiting": "not started"}
    lines = [f"{row.id:<{width}}  {outcomes[row.state].format(row.seconds)}" for row in rows]
    for row in rows:
        if row.state == "failed":
            lines += ["", f"{row.id}: {row.message}"]
            if row.log:
                log = dvc_runner.tail(project.root / row.log, TAIL)
                lines += [f"  last lines of {row.log}:", *(f"    {line}" for line in log)]
    if any(row.state != "done" for row in rows):
        lines += ["", f"{_counts(rows)}; to continue, run: prolific sweep --only-failed"]
    else:
        lines.append(f"{_counts(rows)}; see reports/<id>.html, or compare them with prolific ui")
    return "\n".join(lines)


def _counts(rows: list[Row]) -> str:
    labels = {"done": "done", "failed": "failed", "waiting": "not started"}
    counts = {label: sum(row.state == state for row in rows) for state, label in labels.items()}
    return f"{len(rows)} {'prompt' if len(rows) == 1 else 'prompts'}: " + ", ".join(
        f"{count} {label}" for label, count in counts.items() if count
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
