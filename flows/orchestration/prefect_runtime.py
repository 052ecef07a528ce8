"""Prefect's environment, which must be set before Prefect is imported, and flow runs that survive a lost server."""

import functools
import os
import sys
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flows.orchestration import prefect_server
from prolific_core.errors import ProlificError
from tasks.runtime import machine
from tasks.runtime.project import Project

if TYPE_CHECKING:
    from prefect import Flow, Task

P, R = ParamSpec("P"), TypeVar("R")

_offline = False  # whether this process has given up on the server


def set_up(project: Project) -> None:
    """Set Prefect's environment and make a server available; call it before a module of flows is imported.

    The server is the user's ($PREFECT_API_URL), or one that ends with this process and has its database in
    .state/prefect. Where none answers, a warning is printed and flows run without Prefect. Variables that the user has
    set stay.
    """
    machine.disable_telemetry()
    for name, value in {
        "PREFECT_HOME": str(project.state / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        # 14 seconds, in which a user's server may be restarted; our own server never is.
        "PREFECT_CLIENT_MAX_RETRIES": "3" if os.environ.get("PREFECT_API_URL") else "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command reports a failure itself, once
        "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_SHOW_LOGO": "false",
    }.items():
        os.environ.setdefault(name, value)
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        (project.state / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect hangs where the parent is missing
        if prefect_server.start(project.state / "prefect" / "server.log", meanwhile=_import) is None:
            del os.environ["PREFECT_API_URL"]
            go_offline("the Prefect server did not start (see .state/prefect/server.log)")
            return
    elif not is_offline() and not prefect_server.answers(url):
        go_offline(f"no Prefect server answers at {url} (PREFECT_API_URL)")
        return
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker

    # An event that cannot be sent is kept and sent with the next one, without further attempts to reconnect.
    EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=2)


def _import(url: str) -> None:
    """Import Prefect, which takes 1.5 seconds, for the server at a URL."""
    os.environ["PREFECT_API_URL"] = url
    import prefect.events.worker  # noqa: F401


def is_offline() -> bool:
    """Return whether this process runs flows without a server."""
    return _offline


def go_offline(reason: str) -> None:
    """Run flows without a server from now on, and print a warning the first time."""
    global _offline
    if not _offline:
        _offline = True
        print(f"prolific: {reason}; the work goes on without it", file=sys.stderr, flush=True)


def is_server_error(error: BaseException) -> bool:
    """Return whether an exception is a failure of Prefect rather than of the work in a flow."""
    if isinstance(error, ProlificError):
        return False
    import httpx
    from prefect.exceptions import PrefectException

    return isinstance(error, (httpx.HTTPError, PrefectException)) or "Failed to reach API" in str(error)


def run_flow(flow: "Flow[P, R]", *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow, or only its function where no server answers or the server is lost during the run.

    A function that was interrupted by the loss is called again, so what it has finished must cost nothing.
    """
    if is_offline():
        return flow.fn(*args, **kwargs)
    outcome: Future[R] = Future()

    @functools.wraps(flow.fn)
    def record(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            outcome.set_result(flow.fn(*args, **kwargs))
        except Exception as error:
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
        go_offline(f"the Prefect server at {os.environ['PREFECT_API_URL']} is gone")
    # The function may have ended before Prefect failed to record that.
    return outcome.result() if outcome.done() else flow.fn(*args, **kwargs)


def run_task(task: "Task[P, R]", *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a task of a flow, or only its function where the flow runs without a server."""
    return task.fn(*args, **kwargs) if is_offline() else task(*args, **kwargs)
