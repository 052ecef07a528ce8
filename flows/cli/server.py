"""The command `prolific server`."""

from typing import Annotated

import typer


def server(
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="The port of the server.")] = 4200,
) -> None:
    """Run a Prefect server for workers and schedules. It is accessible only from this machine.

    Other commands in this project find it and have access to it. Web pages and other users have not.

    Examples:
    $ prolific server
    $ prolific deploy
    """
    from flows.orchestration import prefect_server
    from tasks.runtime.project import Project

    prefect_server.serve(Project.find(), port)
