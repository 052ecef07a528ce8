"""Options that several commands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")]


def complete_id(incomplete: str) -> list[str]:
    """Return the ids of the prompts on file that begin with `incomplete`, for shell completion."""
    from prolific_core.errors import ProlificError
    from tasks.runtime.project import Project

    try:
        return [id for id in Project.find().prompt_ids() if id.startswith(incomplete)]
    except ProlificError:
        return []  # the shell is not in a project


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Ids, prompt sets or patterns such as 'a-red-*'. Without a name, every prompt is meant.",
        autocompletion=complete_id,
    ),
]
