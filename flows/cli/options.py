"""Command-line options that several commands share."""

from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set a parameter, for example nerf.steps=200. This option can be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")]


def complete_id(incomplete: str) -> list[str]:
    """Return the ids of the prompts that start with `incomplete`, for shell completion."""
    from prolific_core.errors import ProlificError
    from tasks.runtime.project import Project

    try:
        return [id for id in Project.find().prompt_ids() if id.startswith(incomplete)]
    except ProlificError:
        return []  # the current folder is not in a project


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Prompt ids, prompt sets or patterns such as 'a-red-*'. By default, all prompts are selected.",
        autocompletion=complete_id,
    ),
]
