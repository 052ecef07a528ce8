"""Prefect server that runs on the loopback interface for the duration of one command.

Prefect's own ephemeral server is not used for two reasons. It belongs to the command's process group, so a signal to
the group (Ctrl-C, or SIGTERM from a batch system) stops it before the final states of its runs are saved. It also keeps
running if the command is killed.
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

START = 300.0  # seconds to wait for the server, which creates a database on its first start


def start(
    log: Path, home: Path | None = None, meanwhile: Callable[[str], None] = lambda url: None
) -> tuple[str, Callable[[], None]] | None:
    """Start a server that stops when this process ends.

    The database is stored in `home` (by default $PREFECT_HOME). While the server starts, `meanwhile` is called with its
    API URL. Returns the API URL and a function that stops the server, or None if the server did not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("PREFECT_API_URL", None)  # the URL belongs to another server
    if home:
        environment["PREFECT_HOME"] = str(home)
    # The server inherits the listening socket, so another process cannot take the port before the server starts.
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
    """Return whether a Prefect server responds at the given API URL."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True  # the server runs but requires authentication
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
    """Make every SQLite transaction acquire the write lock when it begins.

    By default, a transaction that starts with a read fails immediately (SQLITE_BUSY) if it writes while another
    transaction is writing. The client then receives status 503, waits for several seconds, and gives up after the
    second failure. This happened in sweeps with four workers.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction
    AioSqliteConfiguration.begin_transaction = lambda self, session, with_for_update=False: begin(
        self, session, with_for_update=True
    )


if __name__ == "__main__":
    main()
