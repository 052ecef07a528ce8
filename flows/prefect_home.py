"""Prefect's surroundings, set before it is imported: its own folder, quiet, nothing reported."""

import os

from tasks import machine
from tasks.project import Project


def set_up(project: Project) -> None:
    """By default an embedded server with its database in .state/prefect; what the user set stays."""
    machine.quiet()
    if "PREFECT_HOME" not in os.environ:
        (project.state / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect makes one level only, then hangs
    for name, value in {
        "PREFECT_HOME": str(project.state / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",  # a first start makes a database
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # failures are told by us, once
        "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_SHOW_LOGO": "false",
    }.items():
        os.environ.setdefault(name, value)
