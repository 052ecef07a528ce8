"""Command-line options that several commands share."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from prolific_core.errors import InputError, ProlificError
from tasks.runtime.root import find_root, preset_names, system_names

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a parameter, for example nerf.steps=200. This option can be repeated. "
        "The defaults are those of the preset.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")]


def complete_id(incomplete: str) -> list[str]:
    """Return the ids of the prompts that start with `incomplete`, for shell completion."""
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


def _names(of_project: Callable[[Path], list[str]]) -> list[str]:
    try:
        return of_project(find_root())
    except ProlificError:
        return []  # The command itself reports that there is no project.


def presets() -> list[str]:
    """Return the names of the presets of the project, for the help and for shell completion."""
    return _names(preset_names)


def complete_preset(incomplete: str) -> list[str]:
    """Return the presets that start with `incomplete`, for shell completion."""
    return [name for name in presets() if name.startswith(incomplete)]


def systems() -> list[str]:
    """Return the names of the systems of the project, for the help and for shell completion."""
    return _names(system_names)


def complete_system(incomplete: str) -> list[str]:
    """Return the systems that start with `incomplete`, for shell completion."""
    return [name for name in systems() if name.startswith(incomplete)]


SYSTEM_HELP = "The methods of all stages, a file in systems/" + (
    f": {', '.join(names)}." if (names := systems()) else "."
)
PRESET_HELP = "A file in presets/" + (f": {', '.join(names)}." if (names := presets()) else ".")


def join_words(words: list[str]) -> str:
    """Return the prompt that was typed with or without quotation marks.

    Raises an InputError for several prompts in quotation marks.
    """
    if len(words) > 1 and any(len(word.split()) > 1 for word in words):
        raise InputError(
            f"one prompt is expected, got {len(words)}: {', '.join(map(shlex.quote, words))[:200]}; "
            "for many prompts, see `prolific prompts import --help`"
        )
    return " ".join(words)


PromptText = Annotated[
    list[str],
    typer.Argument(
        metavar="PROMPT",
        help="The prompt, for example: a red mug. Quotation marks are needed only for characters that are special in "
        "your shell.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Accept prompts that the prior does not know (see prolific prior vocabulary).")
]
