"""Run prompts on a Prefect work pool, as runs of the deployment generate/<pool>."""

import ctypes
import itertools
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from flows.orchestration import dvc_runner, prefect_runtime, run_status
from flows.reporting.sweep_progress import Board
from prolific_core.errors import InputError, ProlificError
from tasks.runtime import machine, records
from tasks.runtime.console import detail
from tasks.runtime.project import STAGES, Project

MAX_RUNS = 32  # maximum number of submitted runs; should be at least the number of workers
RESUBMIT = 2  # number of times that a crashed run is restarted
POLL_SECONDS = 2.0
IDLE = 30.0  # seconds that a run waits for a worker before a pool without workers is reported
CLAIMED = 120.0  # seconds within which a worker must start a run that it has claimed
PATIENCE = 600.0  # seconds without an answer from the server before a run counts as failed
UNCONFIRMED = "the Prefect server has not confirmed that all runs are cancelled; look at its page"


class Submission:
    """What a run on a pool is started with. This one is for workers that share the project's folder."""

    def __init__(self, names: list[str]):
        self.names, self._key = names, uuid.uuid4().hex

    def parameters(self, id: str) -> dict[str, Any]:
        """Return the parameters of the flow `generate`."""
        return {"id": id, "sweep": self.names}

    def options(self, id: str, number: int) -> dict[str, Any]:
        """Return further arguments of Prefect's `run_deployment` for a prompt's run with this number.

        The key makes a submission whose answer was lost repeatable.
        """
        return {"idempotency_key": f"{self._key}-{id}-{number}"}

    def progress(self, id: str) -> object:
        """Return a value that changes when a prompt has progressed: a crash after that is a new one."""
        return None

    def collect(self, id: str) -> None:
        """Fetch the results of a run that has completed."""

    def finish(self) -> None:
        """Do what remains when all runs have ended."""


def share_arenas() -> None:
    """Make the threads of this process share glibc's arenas, and with them the memory that they free.

    By default, each of the threads that wait for runs keeps freed memory in an arena of its own, and a sweep over 200
    prompts takes 480 MB instead of 250. With other C libraries, this function does nothing.
    """
    try:
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX
    except (AttributeError, OSError, TypeError):
        return


def deployment(pool: str):
    """Return the deployment generate/<pool>. Raises an InputError if the server has none."""
    url = os.environ.get("PREFECT_API_URL")
    if prefect_runtime.is_offline():
        raise ProlificError(f"--pool {pool} needs a Prefect server; start one with `prolific server`")
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(f"generate/{pool}")
    except ObjectNotFound:
        raise InputError(
            f"--pool {pool}: the Prefect server at {url} has no deployment generate/{pool}; run `prolific deploy`"
        ) from None


def runner(project: Project, pool: str, submission: Submission) -> Callable[[str, Board], None]:
    """Return a function that runs one prompt of a sweep on the work pool."""
    return lambda id, board: _run(project, pool, id, board, submission)


def _run(project: Project, pool: str, id: str, board: Board, submission: Submission) -> None:
    crashes, reached = 0, submission.progress(id)
    for number in itertools.count():
        run = _submit(pool, id, submission, number)
        if run.state and run.state.is_final() and not run.state.is_completed():
            continue  # of an earlier sweep
        state = _until_it_ends(project, pool, run.id, id, board)
        if state.is_completed():
            submission.collect(id)
            return
        if not state.is_crashed():
            break
        now = submission.progress(id)
        crashes, reached = (crashes + 1 if now == reached else 1), now
        if crashes > RESUBMIT:
            break
        board.say(f"{id}: the run crashed; restarting it ({crashes} of {RESUBMIT})")
    status = run_status.read(project, id)
    if (
        state.is_failed() and status and status.state == "failed"
    ):  # a worker on another machine does not write the status here
        raise ProlificError(status.message)
    raise ProlificError(
        f"the run on pool '{pool}' ended with state {state.name}: {' '.join((state.message or 'no message').split())}"
    )


def _submit(pool: str, id: str, submission: Submission, number: int) -> Any:
    """Create a run, or return the existing one with the same key. A server that does not answer is waited for."""
    from prefect.deployments import run_deployment

    end = time.monotonic() + PATIENCE
    while True:
        try:
            return run_deployment(
                f"generate/{pool}",
                parameters=submission.parameters(id),
                flow_run_name=id,
                timeout=0,
                **submission.options(id, number),
            )
        except Exception as error:
            if not prefect_runtime.is_server_error(error) or time.monotonic() > end:
                raise
        if dvc_runner.stopping.wait(POLL_SECONDS):
            raise KeyboardInterrupt


def _until_it_ends(project: Project, pool: str, run_id, id: str, board: Board):
    """Wait until a run ends and return its final state.

    In the meantime, show the progress of its stages on the board. A scheduled or late run waits for a worker.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    answered, claimed, began = time.monotonic(), None, time.time()
    with get_client(sync_client=True) as client:
        while True:
            try:
                state = client.read_flow_run(run_id).state
                if state is not None and state.is_scheduled() and time.time() - began > IDLE:
                    began = time.time()
                    _warn_of_idle_pool(client, pool, board)
                answered = time.monotonic()
            except Exception as error:
                if not prefect_runtime.is_server_error(error):
                    raise
                if time.monotonic() - answered > PATIENCE:
                    raise ProlificError(
                        f"the Prefect server at {os.environ['PREFECT_API_URL']} no longer answers"
                    ) from None
                state = None
            if state is not None and state.is_final():
                return state
            if state is not None:
                _show(project, id, state, began, board)
            # The automation does not detect a worker that dies before the first heartbeat of a run that it has claimed.
            claimed = (claimed or time.monotonic()) if state is not None and state.is_pending() else None
            if claimed and time.monotonic() - claimed > CLAIMED:
                client.set_flow_run_state(
                    run_id, Crashed(message=f"claimed by a worker but not started within {CLAIMED:.0f} s"), force=True
                )
            if dvc_runner.stopping.wait(POLL_SECONDS):
                _cancel(client, run_id, board)
                raise KeyboardInterrupt


def _cancel(client, run_id, board: Board) -> None:
    """Cancel a run. If a worker has started it, the worker stops it.

    The request is not repeated, because the user waits for the end of the command.
    """
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
    from prefect.states import Cancelling

    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            client.set_flow_run_state(run_id, Cancelling(), force=True)
    except Exception as error:
        if not prefect_runtime.is_server_error(error):
            raise
        board.say_once(UNCONFIRMED)


def give_up(board: Board) -> None:
    """Leave a server that does not answer, when the sweep has been interrupted."""
    board.say_once(UNCONFIRMED)
    prefect_runtime.refuse_requests()
    machine.skip_exit_handlers = True  # Prefect's wait ten seconds for the server


def _warn_of_idle_pool(client, pool: str, board: Board) -> None:
    if client.read_work_pool(pool).status == "NOT_READY":
        board.say_once(f"no worker of pool '{pool}' is running; start one: prolific worker --pool {pool}")


def _show(project: Project, id: str, state, since: float, board: Board) -> None:
    if state.is_running():
        if not board.live:
            board.say_once(f"{id}  started by a worker")
        board.show(id, *_where(project, id, since))
    elif state.is_pending():
        board.show(id, "starting")
    elif state.name == "Cancelling":
        board.show(id, "stopping")
    else:
        board.wait(id)


def _where(project: Project, id: str, since: float) -> tuple[str, str, str]:
    """Return the current stage, its steps and the remaining time, read from records newer than `since`.

    If the worker is on another machine, its records are not available, and the stage is "running".
    """
    files = [
        (path.stat().st_mtime, name)
        for name in STAGES
        if (path := project.stage_state(id, name) / "records.jsonl").is_file()
    ]
    if not files or max(files)[0] < since:
        return "running", "", ""
    name = max(files)[1]
    found, _ = records.read(project.stage_state(id, name) / "records.jsonl")
    last = next((record for record in reversed(found) if record["kind"] == "progress"), None)
    return (name, f"{last['step']}/{last['steps']}", detail(last["left"], {})) if last else (name, "", "")
