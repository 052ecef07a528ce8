"""Servers of a cluster on this machine: PostgreSQL, Prefect, MLflow, git and an S3-compatible object store."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Server:
    """Process that listens on a port of the loopback interface, and can be stopped and started again."""

    http = True

    def __init__(self, folder: Path, name: str, *command: str, port: int, cwd: Path | None = None, **environment: str):
        self.command, self.port, self.log = command, port, folder / f"{name}.log"
        self.cwd, self.environment = cwd or folder, {**os.environ, **environment}
        self.start()

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.cwd, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.http:
                    urllib.request.urlopen(f"http://127.0.0.1:{self.port}", timeout=5).close()
                else:
                    socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"{self.command} did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
                try:
                    self.process.wait(20)
                except subprocess.TimeoutExpired:
                    continue


class GitServer(Server):
    """Server of the repositories in a folder, to which everyone may push."""

    http = False

    def __init__(self, folder: Path):
        port = free_port()
        options = ["--export-all", "--enable=receive-pack", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}"]
        super().__init__(folder, "git", "git", "daemon", *options, f"--base-path={folder}", str(folder), port=port)


class Postgres:
    """Database server with a random password, run by the user postgres if this process is root's."""

    def __init__(self):
        assert POSTGRES
        # Not in pytest's folders: every start of pytest closes them to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="prolific-postgres-"))
        self.port, self.password = free_port(), secrets.token_urlsafe(16)
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, "postgres", "postgres")
        self._run("initdb", "-D", "data", "-U", "prolific", "-A", "scram-sha-256", f"--pwfile={secret}")
        secret.unlink()
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        for name in ("prefect", "mlflow"):
            self.sql("postgres", f"CREATE DATABASE {name}")

    def _run(self, command: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*user, str(POSTGRES / command), *arguments], cwd=self.folder, check=True, stdout=subprocess.DEVNULL
        )

    def sql(self, database: str, text: str) -> str:
        address = self.address("postgresql", database)
        done = subprocess.run(["psql", "-At", address, "-c", text], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def address(self, scheme: str, database: str) -> str:
        return f"{scheme}://prolific:{self.password}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-m", "fast", "stop")
        shutil.rmtree(self.folder)


def object_store(folder: Path) -> Server:
    port = free_port()
    return Server(folder, "store", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), port=port)


def mlflow(folder: Path, postgres: Postgres, store: Server) -> Server:
    port = free_port()
    return Server(
        folder, "mlflow", sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
        "--serve-artifacts", "--artifacts-destination", "s3://mlflow",
        port=port,
        MLFLOW_BACKEND_STORE_URI=postgres.address("postgresql+psycopg2", "mlflow"),
        MLFLOW_S3_ENDPOINT_URL=f"http://127.0.0.1:{store.port}",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )  # fmt: skip


def prefect(folder: Path, project: Path, postgres: Postgres) -> Server:
    port = free_port()
    return Server(
        folder, "prefect", sys.executable, "-m", "flows.cli.main", "server", "--port", str(port),
        port=port,
        cwd=project,
        PREFECT_API_DATABASE_CONNECTION_URL=postgres.address("postgresql+asyncpg", "prefect"),
    )  # fmt: skip
