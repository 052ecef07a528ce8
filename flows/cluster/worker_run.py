"""Run of one prompt on a worker that has no disk in common with the head."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from flows.cluster import dvc_transfer, handover, workspace
from flows.orchestration import prefect_runtime
from tasks.runtime.project import STAGES, Project
from tasks.tracking import outbox
from tasks.tracking.tracker import Tracker

LEASE = "PROLIFIC_LEASE_SECONDS"  # seconds after which the prompt of a lost worker is free
SEND_EVERY = 60.0  # seconds between two hand-overs of finished stages; a quick prompt is handed over once, at its end
PATIENCE = 300.0  # seconds to wait for a Prefect server that is away, before a prompt is claimed
POLL_SECONDS = 2.0
DELIVERY = 300.0  # seconds to wait for an MLflow server that is away, at the end of a prompt


@contextlib.contextmanager
def own(project: Project, id: str, revision: str) -> Iterator[Callable[[], None]]:
    """Own a prompt: take over what other workers have made of it, and hand over what this worker has made.

    This must be called within a flow, in a clone that has `revision` checked out. Prefect grants the prompt to one
    worker at a time. If its server does not confirm this any longer, the run is stopped.

    Args:
        project: The worker's clone.
        id: The prompt's id.
        revision: The revision that is checked out.

    Yields:
        A function to call after each stage. If the block raises an exception, including that of SIGTERM, the
        checkpoint of the running stage is handed over, and another worker continues from it.
    """
    with _lease(id):
        workspace.keep_only(project.root, id)
        seen = handover.fetch(project, id)
        if seen:
            handover.write_files(project, id, seen)
        if not dvc_transfer.pull(project, [id]):
            print(f"prolific: DVC's remote does not have all outputs of {id}; their stages run again", flush=True)
        dvc_transfer.install_state(project, id)
        finished = sent = project.finished_stages(id)
        last = time.monotonic()

        def after_stage() -> None:
            nonlocal seen, sent, last
            if project.finished_stages(id) > sent and time.monotonic() - last > SEND_EVERY:
                seen = handover.send(project, id, revision, seen, complete=False)
                sent, last = project.finished_stages(id), time.monotonic()

        try:
            yield after_stage
        except BaseException:
            with _ignored(signal.SIGTERM):
                if _has_progress(project, id, finished):
                    handover.send(project, id, revision, seen, complete=False)
            raise
        if not (seen and handover.is_complete(project, seen, revision)):
            handover.send(project, id, revision, seen, complete=True)
        deliver(project, id)


@contextlib.contextmanager
def _lease(id: str) -> Iterator[None]:
    """Own a prompt, as far as other workers are concerned, for the duration of the block.

    If Prefect's server is away at the end, the prompt is not released. It is free when the lease expires.
    """
    claim, failure = _claim(id), None
    try:
        with claim:
            try:
                yield
            except BaseException as error:
                failure = error
                raise
    except Exception as error:
        if error is failure or not prefect_runtime.is_server_error(error):
            raise
        if failure is not None:
            raise failure from None


def _claim(id: str) -> contextlib.ExitStack:
    """Wait until no other worker owns a prompt, and until Prefect's server answers, and return a block that owns it."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists

    name, seconds = f"prolific-{id}", float(os.environ.get(LEASE, 300))
    end = time.monotonic() + PATIENCE
    while True:
        try:
            # Two workers may create it at once.
            with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
                client.upsert_global_concurrency_limit_by_name(name, 1)
            claim = contextlib.ExitStack()
            claim.enter_context(
                concurrency(name, lease_duration=seconds, strict=True, raise_on_lease_renewal_failure=True)
            )
            return claim
        except Exception as error:
            if not prefect_runtime.is_server_error(error) or time.monotonic() > end:
                raise
        time.sleep(POLL_SECONDS)


def _has_progress(project: Project, id: str, finished: int) -> bool:
    checkpoints = (project.stage_state(id, stage).glob("checkpoints/*/*") for stage in STAGES)
    return project.finished_stages(id) > finished or any(any(found) for found in checkpoints)


@contextlib.contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """Ignore a signal, which may be sent twice, while the hand-over lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def deliver(project: Project, id: str, seconds: float = DELIVERY) -> None:
    """Send what MLflow has not received, because this clone may not run another prompt.

    While the server is away, this waits for it. What is then still unsent stays in the clone's outbox.
    """
    end = time.monotonic() + seconds
    while not outbox.is_empty(project) and time.monotonic() < end:
        if _listens(os.environ.get("MLFLOW_TRACKING_URI", "")):
            Tracker(project, id).send_pending()
        time.sleep(1)


def _listens(address: str) -> bool:
    """Return whether a server accepts connections at an address. A database or a folder counts as one."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return True
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except OSError:
        return False
    return True
