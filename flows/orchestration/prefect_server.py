"""Prefect server for the duration of one command, on the loopback interface.

Prefect's own ephemeral server is in the process group of the command: a signal to the group (Ctrl-C, SIGTERM of a batch
system) ends it before its runs are closed, and it survives a command that is killed.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tasks.runtime import machine

START = 300.0  # seconds; the first start makes a database


def start(
    log: Path, home: Path | None = None, meanwhile: Callable[[str], None] = lambda url: None
) -> tuple[str, Callable[[], None]] | None:
    """Start a server that ends with this process; return the URL of its API and a function that stops it earlier.

    Its database is in `home` (by default $PREFECT_HOME). `meanwhile` is called with the URL while the server starts.
    Returns None when it does not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("PREFECT_API_URL", None)  # the address of another server
    if home:
        environment["PREFECT_HOME"] = str(home)
    # The server inherits the socket, so that no other process can take the port in between.
    with socket.create_server(("127.0.0.1", 0)) as listening, open(log, "wb") as file:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.orchestration.prefect_server", str(listening.fileno())],
            env=environment,
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()

    atexit.register(stop)
    meanwhile(url)
    end = time.monotonic() + START
    while process.poll() is None and time.monotonic() < end:
        if answers(url):
            return url, stop
        time.sleep(0.1)
    return None


def answers(url: str, seconds: float = 3.0) -> bool:
    """Return whether a server answers at the URL of an API."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True  # a server that requires authentication
    except (OSError, ValueError):
        return False


def main() -> None:
    machine.die_with_parent()
    os.environ["PREFECT_UI_ENABLED"] = "0"
    import uvicorn
    from prefect.server.api.server import create_app

    _wait_to_write()
    app = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2))
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _wait_to_write() -> None:
    """Make every transaction in SQLite acquire its write lock at the beginning.

    A transaction that begins as a read and writes while another one writes is refused at once (SQLITE_BUSY). The client
    then receives status 503, sleeps for seconds and gives up the second time, as happened to sweeps with four workers.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction
    AioSqliteConfiguration.begin_transaction = lambda self, session, with_for_update=False: begin(
        self, session, with_for_update=True
    )


if __name__ == "__main__":
    main()
