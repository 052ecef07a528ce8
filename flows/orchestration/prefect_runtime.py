"""Prefect's surroundings, set before it is imported: its own folder, quiet, nothing reported; and work without it."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from flows.orchestration import prefect_server
from prolific_core.errors import ProlificError
from tasks.runtime import machine
from tasks.runtime.project import Project

Result = TypeVar("Result")

_offline = False  # whether this process gave up on the server


def set_up(project: Project) -> None:
    """A server to tell: the user's ($PREFECT_API_URL), else one of our own with its database in .state/prefect.

    What the user set stays. Where no server answers, one line says so and `as_flow` does without.
    """
    machine.disable_telemetry()
    for name, value in {
        "PREFECT_HOME": str(project.state / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        # 14 seconds, in which a server may be started again (by default a minute); ours never is.
        "PREFECT_CLIENT_MAX_RETRIES": "3" if os.environ.get("PREFECT_API_URL") else "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # failures are told by us, once
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
        (project.state / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect makes one level only, then hangs
        if prefect_server.start(project.state / "prefect" / "server.log", meanwhile=_import) is None:
            del os.environ["PREFECT_API_URL"]
            go_offline("the Prefect server did not start (see .state/prefect/server.log)")
            return
    elif not is_offline() and not prefect_server.answers(url):
        go_offline(f"no Prefect server answers at {url} (PREFECT_API_URL)")
        return
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker

    # An event that cannot be sent is kept and tried again with the next: no waiting for each of them.
    EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=2)


def _import(url: str) -> None:
    """Load Prefect, a second and a half of it, for the server at a URL."""
    os.environ["PREFECT_API_URL"] = url
    import prefect.events.worker  # noqa: F401


def is_offline() -> bool:
    """Whether this process goes on without a server."""
    return _offline


def go_offline(why: str) -> None:
    """Go on without a server, and say so once."""
    global _offline
    if not _offline:
        _offline = True
        print(f"prolific: {why}; the work goes on without it", file=sys.stderr, flush=True)


def is_server_error(error: BaseException) -> bool:
    """Whether this is Prefect's own failure, and not one of the work."""
    if isinstance(error, ProlificError):
        return False
    import httpx
    from prefect.exceptions import PrefectException

    return isinstance(error, (httpx.HTTPError, PrefectException)) or "Failed to reach API" in str(error)


def as_flow(name: str, id: str, work: Callable[[], Result], sweep: list[str] | None = None) -> Result:
    """Do the work as a run of a flow, named by an id; without Prefect where its server is away or dies meanwhile.

    The work may then be done twice, so it must be such that what is finished costs nothing. sweep: for
    `prefect flow-run retry`, which gives a run its parameters again.
    """
    if is_offline():
        return work()
    from prefect import flow

    results = []

    # DVC is the only cache: a second one, local to a machine, would contradict it.
    @flow(name=name, flow_run_name="{id}", persist_result=False)
    def run(id: str, sweep: list[str] | None = None) -> None:
        results.append(work())

    try:
        run(id, sweep)
    except Exception as error:
        if not is_server_error(error):
            raise
        go_offline(f"the Prefect server at {os.environ['PREFECT_API_URL']} is gone")
        if not results:
            results.append(work())
    return results[0]
