"""Prefect's server for the time of one command: on the loopback, and gone when the command is.

Prefect starts one by itself too, but as part of our process group: a signal to the group (Ctrl-C, a
batch system's SIGTERM) ends it before the runs that it keeps are closed, and when we are killed it stays.
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
    """Start one that ends with this process: the URL of its API, and what ends it before; None when it does not come up.

    home: of its database ($PREFECT_HOME, if None). `meanwhile` is called with the URL while it comes up.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("PREFECT_API_URL", None)  # of another server
    if home:
        environment["PREFECT_HOME"] = str(home)
    # The socket is ours first: no other process takes the port in between.
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
    """Whether there is a server at an API's URL."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True  # it wants to know who asks, which Prefect will say
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
    """Have every transaction in SQLite wait its turn from its beginning.

    One that begins as a read and comes to write while another writes is refused at once (SQLITE_BUSY); the client
    is told 503, sleeps for seconds, and gives up the second time: so began the runs of a sweep with four workers.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction
    AioSqliteConfiguration.begin_transaction = lambda self, session, with_for_update=False: begin(
        self, session, with_for_update=True
    )


if __name__ == "__main__":
    main()
