"""Prefect servers on the loopback interface: one for the duration of a command, or the one of `prolific server`.

Prefect's own ephemeral server is not used for two reasons. It belongs to the command's process group, so a signal to
the group (Ctrl-C, or SIGTERM from a batch system) stops it before the final states of its runs are saved. It also keeps
running if the command is killed.

Whoever can reach a Prefect server can make it run commands, and every page in a browser can send requests to the
loopback interface. Each server therefore answers only to clients that send its secret string, and to no page of another
origin.
"""

import atexit
import base64
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from prolific_core.errors import InputError
from prolific_core.files import write_atomically
from tasks.runtime import machine
from tasks.runtime.project import Project

START = 300.0  # seconds to wait for the server, which creates a database on its first start
URL, STRING = "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"  # environment variables of a server's clients


def start(
    log: Path, home: Path | None = None, meanwhile: Callable[[dict[str, str]], None] = lambda client: None
) -> tuple[dict[str, str], Callable[[], None]] | None:
    """Start a server that stops when this process ends.

    The database is stored in `home` (by default $PREFECT_HOME). While the server starts, `meanwhile` is called with the
    environment variables of its clients. Returns these variables and a function that stops the server, or None if the
    server did not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for name in (URL, STRING):  # of another server
        environment.pop(name, None)
    if home:
        environment["PREFECT_HOME"] = str(home)
    # The server inherits the listening socket, so another process cannot take the port before the server starts.
    with socket.create_server(("127.0.0.1", 0)) as listening, open(log, "wb") as file:
        client = _client(listening, _new_string())
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.orchestration.prefect_server", str(listening.fileno())],
            env={**environment, **_protection(client), "PREFECT_UI_ENABLED": "0"},
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
    meanwhile(client)
    end = time.monotonic() + START
    while process.poll() is None and time.monotonic() < end:
        if answers(client[URL]):
            return client, stop
        time.sleep(0.1)
    return None


def serve(project: Project, port: int) -> None:
    """Run the server of `prolific server`, with its web interface, until this process is interrupted.

    Its secret string stays the same, and only the owner of the project can read it. Raises an InputError if the port is
    in use.
    """
    home = project.state / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError:
        raise InputError(
            f"port {port} is in use; choose another port, for example: prolific server --port {port % 65535 + 1}"
        ) from None
    client = _client(listening, _kept_string(home / "auth_string"))
    os.environ.update({"PREFECT_HOME": str(home), **client, **_protection(client)})
    # A worker's claim on a prompt must outlive a restart; by default it would be held for ever.
    os.environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = "prefect.server.concurrency.lease_storage.filesystem"
    kept = home / "api_url"
    write_atomically(kept, client[URL].encode())
    print(
        f"Prefect: http://127.0.0.1:{port} (press Ctrl-C to stop it); its page asks for the content of\n"
        f"{home / 'auth_string'}, and so do other machines (PREFECT_API_AUTH_STRING)",
        file=sys.stderr,
        flush=True,
    )
    try:
        _run(listening, ephemeral=False)
    finally:
        kept.unlink(missing_ok=True)


def connect(project: Project) -> str:
    """Return the API URL of the user's server, or an empty string if there is none.

    This is the server at PREFECT_API_URL or, if that is not set, the running server of `prolific server`. Both
    environment variables of its clients are set.
    """
    home, url = project.state / "prefect", os.environ.get(URL, "")
    with contextlib.suppress(FileNotFoundError):
        kept = (home / "api_url").read_text()
        if not url and answers(kept):
            url = os.environ[URL] = kept
        if url.replace("localhost", "127.0.0.1").rstrip("/") == kept:
            os.environ.setdefault(STRING, _kept_string(home / "auth_string"))
    return url


def answers(url: str, seconds: float = 3.0) -> bool:
    """Return whether a Prefect server responds at the given API URL."""
    return not problem(url, {}, seconds).startswith("no ")


def problem(url: str, environment: Mapping[str, str] = os.environ, seconds: float = 3.0) -> str:
    """Return why the server at an API URL cannot be used with the string in an environment, or an empty string."""
    request = urllib.request.Request(f"{url}/admin/version")
    if string := environment.get(STRING):
        request.add_header("Authorization", f"Basic {base64.b64encode(string.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return f"the Prefect server at {url} refuses this client; set {STRING} to the server's secret string"
        return ""
    except (OSError, ValueError):
        return f"no Prefect server answers at {url}"


def comes_back(url: str, seconds: float = 12.0) -> bool:
    """Return whether a server that refuses connections, because it is being restarted, answers within some seconds.

    For a server that accepts connections and does not answer, the function returns False at once.
    """
    refused, end = False, time.monotonic() + seconds
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=1).close()
            if not refused:
                return False
            if answers(url):
                return True
        except ConnectionRefusedError:
            refused = True
        except OSError:
            return False
        time.sleep(0.5)
    return False


def main() -> None:
    machine.die_with_parent()
    _run(socket.socket(fileno=int(sys.argv[1])), ephemeral=True)


def _run(listening: socket.socket, ephemeral: bool) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    _wait_to_write()
    app = create_app(ephemeral=ephemeral, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2))
    server.run(sockets=[listening])


def _new_string() -> str:
    return f"prolific:{secrets.token_urlsafe(32)}"


def _kept_string(path: Path) -> str:
    """Return the secret string in a file, which is created if it does not exist."""
    with (
        contextlib.suppress(FileExistsError),
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f,
    ):
        f.write(_new_string())
    path.chmod(0o600)
    return path.read_text().strip()


def _client(listening: socket.socket, string: str) -> dict[str, str]:
    return {URL: f"http://127.0.0.1:{listening.getsockname()[1]}/api", STRING: string}


def _protection(client: dict[str, str]) -> dict[str, str]:
    """Return the settings of a server that answers only to clients with these environment variables."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": client[STRING],
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": client[URL].removesuffix("/api"),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


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
