"""The command `prolific report`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import complete_id


def report(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the prompt.", autocompletion=complete_id)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one file that holds the model and all downloads, to send or to publish. "
            "By default, reports/ID.html is written, whose downloads are links to the files in runs/.",
        ),
    ] = None,
) -> None:
    """Write the report page of a prompt, which opens in a browser without a network.

    Examples:
    $ prolific report a-red-mug
    $ prolific report a-red-mug --out red-mug.html
    """
    from flows.reporting import report as reporting
    from tasks.runtime.project import Project

    resolved = Project.find().resolve(id)
    print(reporting.export(resolved, out) if out else reporting.write(resolved))
