"""MLflow's own UI on the project's runs, on this machine only."""

import os
import socket
import sys

from prolific_core.errors import InputError
from tasks.dvc_pipeline.cli import environment
from tasks.runtime.project import Project
from tasks.tracking.tracker import uri


def serve(project: Project, port: int) -> None:
    """Become the server; Ctrl-C ends it."""
    where = uri(project)
    if where.startswith(("http:", "https:")):
        print(f"the runs are on {where} (MLFLOW_TRACKING_URI); open it in a browser")
        return
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: a port is a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise InputError(f"port {port} is in use; choose another: prolific ui --port {port % 65535 + 1}") from None
    folder = project.state / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    # Without the last part it opens on pages for language models, where there are no runs.
    print(
        f"MLflow: http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (Ctrl-C ends it)",
        file=sys.stderr,
        flush=True,
    )
    # No background jobs: they would take 1.9 GB for nothing.
    env = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", where]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.chdir(folder)  # the server leaves files where it starts
    os.execve(sys.executable, command, env)
