"""Set up Prefect's environment, and run flows even if the Prefect server is lost."""

import functools
import os
import sys
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

from flows.orchestration import dvc_runner, prefect_server
from prolific_core.errors import ProlificError, mask
from tasks.runtime import machine
from tasks.runtime.console import announce
from tasks.runtime.failures import complain
from tasks.runtime.project import Project

if TYPE_CHECKING:
    from prefect import Flow, State, Task
    from prefect.client.schemas import TaskRun

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS = 2  # between an interrupted stage and its second try

_offline = False  # true if this process runs flows without a server
_own_server = False  # true if this process has started its server, which nobody restarts


def set_up(project: Project, patient: bool = False) -> None:
    """Set Prefect's environment variables, and start a Prefect server if the user has none.

    Call this function before importing Prefect or a module that defines flows. If the user has no server
    (`prefect_server.connect`), one is started that stops with this process and stores its database in .state/prefect.
    If the server does not answer, a warning is printed and flows run without Prefect. Variables that the user has set
    are not changed. A command that does nothing without the user's server, such as a sweep on a pool, is `patient`: it
    waits for a busy server for minutes instead of seconds.
    """
    machine.disable_telemetry()
    url = prefect_server.connect(project)
    for name, value in {
        "PREFECT_HOME": str(project.state / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        # A server that accepts requests and does not answer is given up after two times five seconds and a pause.
        "PREFECT_CLIENT_MAX_RETRIES": "5" if patient else "1",
        "PREFECT_API_REQUEST_TIMEOUT": "60" if patient else "5",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command itself reports each failure once
        "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_SHOW_LOGO": "false",
    }.items():
        os.environ.setdefault(name, value)
    global _own_server
    _own_server = not url
    if not url:
        announce("starting Prefect's server, which takes about ten seconds")
        (project.state / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect hangs if this folder does not exist
        if prefect_server.start(project.state / "prefect" / "server.log", meanwhile=_import) is None:
            del os.environ[prefect_server.URL], os.environ[prefect_server.STRING]
            go_offline("the Prefect server did not start (see .state/prefect/server.log)")
            return
    elif not is_offline():
        announce(f"using the Prefect server at {mask(url)}")
        if problem := prefect_server.problem(url, seconds=60.0 if patient else 3.0):
            go_offline(problem)
            return
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker

    # Two reconnection attempts suffice, because an unsent event is kept and sent with the next one.
    EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=2)


def _import(client: dict[str, str]) -> None:
    """Set the environment variables of the server's clients and import Prefect. The import takes 1.5 seconds."""
    os.environ.update(client)
    import prefect.events.worker  # noqa: F401


def is_offline() -> bool:
    """Return whether this process runs flows without a server."""
    return _offline


def go_offline(reason: str) -> None:
    """Make this process run flows without a server, and print a warning on the first call."""
    if not _offline:
        refuse_requests()
        complain(f"{mask(reason)}; continuing without it")


def refuse_requests() -> None:
    """Make all requests of Prefect's clients in this process fail at once instead of after their timeouts.

    Flows that have started with the server do not wait for it when they end.
    """
    global _offline
    _offline = True
    if "prefect" not in sys.modules:
        return
    import httpx
    from prefect.client import base

    def refuse(*args, **kwargs) -> NoReturn:
        raise httpx.ConnectError("the server has been given up")

    async def refuse_async(*args, **kwargs) -> NoReturn:
        refuse()

    base.PrefectHttpxSyncClient.send = refuse
    base.PrefectHttpxAsyncClient.send = refuse_async


def is_server_error(error: BaseException) -> bool:
    """Return whether an exception was caused by Prefect or its server and not by the code of a flow."""
    if isinstance(error, ProlificError):
        return False
    import httpx
    from prefect.exceptions import PrefectException

    return isinstance(error, (httpx.HTTPError, PrefectException)) or "Failed to reach API" in str(error)


def run_flow(flow: "Flow[P, R]", *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow, or call its function directly if no server is available.

    If the server is lost before the function has returned, the function is called again. The function must therefore
    skip work that is already finished. A server that is being restarted is waited for.
    """
    if is_offline():
        return flow.fn(*args, **kwargs)
    outcome: Future[R] = Future()

    @functools.wraps(flow.fn)
    def record(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            outcome.set_result(flow.fn(*args, **kwargs))
        except BaseException as error:  # also Ctrl-C, after which the server may not accept the state of the run
            if not is_server_error(error):
                outcome.set_exception(error)
            raise
        return outcome.result()

    recorded = flow.with_options()
    recorded.fn = record
    try:
        return recorded(*args, **kwargs)
    except Exception as error:
        if not is_server_error(error):
            raise
        url = os.environ[prefect_server.URL]
        if not is_offline() and (_own_server or not prefect_server.comes_back(url)):
            go_offline(f"the Prefect server at {url} no longer answers")
    # The function may have finished before Prefect failed to record its result.
    return outcome.result() if outcome.done() else run_flow(flow, *args, **kwargs)


def may_succeed(task: "Task[P, R]", run: "TaskRun", state: "State[R]") -> bool:
    """Condition of Prefect's retries: whether a failed task may succeed when it is repeated."""
    try:
        state.result()
    except BaseException as error:
        return _is_temporary(error)
    return False


def run_task(task: "Task[P, R]", *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a task of a flow, or call its function with the same retries if the flow runs without a server."""
    if not is_offline():
        return task(*args, **kwargs)
    for _ in range(task.retries):
        try:
            return task.fn(*args, **kwargs)
        except ProlificError as error:
            if not _is_temporary(error):
                raise
        time.sleep(RETRY_SECONDS)
    return task.fn(*args, **kwargs)


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, ProlificError) and error.temporary and not dvc_runner.stopping.is_set()
