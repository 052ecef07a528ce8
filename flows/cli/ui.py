"""The command `prolific ui`."""

from typing import Annotated

import typer

from prolific_core.errors import InputError, mask


def ui(
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="The port of the web server.")] = 5000,
) -> None:
    """Browse all runs in MLflow's web interface, which is accessible only from this machine.

    If MLFLOW_TRACKING_URI is the address of a server, this command only prints that address.
    """
    import os
    import socket
    import sys

    from tasks.dvc_pipeline.cli import environment
    from tasks.runtime.project import Project
    from tasks.tracking import moved_store
    from tasks.tracking.tracker import artifacts, uri

    project = Project.find()
    store = uri(project)
    if store.startswith(("http:", "https:")):
        print(f"the runs are on the server {mask(store)} (MLFLOW_TRACKING_URI); open this address in a browser")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise InputError(
                f"port {port} is in use; choose another port, for example: prolific ui --port {port % 65535 + 1}"
            ) from None
    folder = project.state / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    moved_store.adopt(folder / "mlflow.db", artifacts(project))
    # Without this workflow type, MLflow opens its pages for language models, which do not show the project's runs.
    print(
        f"MLflow: http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (press Ctrl-C to stop it)",
        file=sys.stderr,
        flush=True,
    )
    # Background jobs are disabled because they use 1.9 GB of memory and are not needed here.
    env = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Every user of this machine can call the API of MLflow's assistant, which runs shell commands. With this setting,
    # it runs them in a Docker container or, without Docker, not at all.
    env["MLFLOW_ENABLE_ASSISTANT_SANDBOX"] = "true"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--default-artifact-root", artifacts(project)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.chdir(folder)  # the server writes files to its working directory
    os.execve(sys.executable, command, env)
