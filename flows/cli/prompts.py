"""The commands `prolific prompts add`, `list`, `remove` and `import`."""

import shutil
import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    PRESET_HELP,
    SYSTEM_HELP,
    Force,
    Names,
    PromptText,
    Settings,
    complete_id,
    complete_preset,
    complete_system,
    join_words,
)
from prolific_core.errors import InputError

app = typer.Typer(
    help="""Add, list, import and remove prompts.

Examples:
$ prolific prompts add "a blue mug" --set nerf.steps=300
$ prolific prompts import animals.csv
$ prolific prompts list animals""",
    no_args_is_help=True,
)

Seed = Annotated[int | None, typer.Option(help="The random seed. The default for a new prompt is 0.")]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help=f"{PRESET_HELP} The default for a new prompt is demo.", autocompletion=complete_preset
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"{SYSTEM_HELP} By default, a new prompt has the methods of its preset.",
        autocompletion=complete_system,
    ),
]


@app.command()
def add(
    text: PromptText,
    id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The id of the prompt. By default, it is derived from the text."),
    ] = None,
    seed: Seed = None,
    preset: Preset = None,
    system: System = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Add a prompt, or change the parameters of an existing prompt."""
    from flows.prompt_store import create, vocabulary
    from tasks.runtime.project import Project

    project = Project.find()
    sections = create.settings(settings or [])
    request = create.PromptRequest(join_words(text), id, seed, preset, sections, system=system)
    prompt = vocabulary.acceptance(project, force)(create.plan(project, request))
    print(f"{prompt.id}: {create.put(project, prompt)}")


@app.command("list")
def show(
    names: Names = None, json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
) -> None:
    """List the prompts and their numbers of finished stages."""
    from flows.prompt_store import sets
    from tasks.runtime.project import STAGES, Project

    project = Project.find()
    found = []
    for id in sets.select(project, names or []):
        try:
            found.append(project.prompt(id))
        except InputError as error:
            print(f"prolific: not listed: {error}", file=sys.stderr)
    made = {prompt.id: project.finished_stages(prompt.id) for prompt in found}
    if json:
        keys = ("id", "text", "seed", "preset", "system_name")
        print(dumps([{key: getattr(prompt, key) for key in keys} | {"stages": made[prompt.id]} for prompt in found]))
        return
    # Lines are truncated at the terminal's width, so the longest column, the text, is the last one.
    rows = [(f"{made[p.id]}/{len(STAGES)}", p.preset, str(p.seed), p.id, p.text) for p in found]
    rows.insert(0, ("made", "preset", "seed", "id", "text"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    end = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True))
        print(line if end is None or len(line) <= end else line[: end - 1] + "…")
    known = sets.set_names(project)
    if known and not names:
        print("sets: " + ", ".join(known))


@app.command()
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The ids of the prompts.", autocompletion=complete_id)],
) -> None:
    """Delete prompts and all files that were made from them."""
    from flows.prompt_store import sets
    from tasks.runtime.project import Project

    project = Project.find()
    for id in ids:
        project.require_prompt(id)  # raises before anything is removed if a prompt does not exist
    for id in ids:
        sets.remove(project, id)
        print(f"{id}: removed")


@app.command("import")
def read(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .txt file with one prompt per line, a .csv file with the columns text, id, seed, preset, "
            "system_name or parameters such as nerf.steps, or a .yaml file with a list of prompts.",
            exists=True,
            dir_okay=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name of the set. By default, the name of the file is used.")
    ] = None,
    seed: Seed = None,
    preset: Preset = None,
    system: System = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Add all prompts in a file, and save their ids as a set.

    Examples:
    $ prolific prompts import animals.txt --preset tiny
    $ prolific prompts import models.csv --name models
    """
    from flows.prompt_store import create, sets
    from tasks.runtime.project import Project

    project = Project.find()
    default = create.PromptRequest("", None, seed, preset, create.settings(settings or []), system=system)
    name, done = sets.import_file(project, file, name, default, force)
    for id, what in done.items():
        print(f"{id}: {what}")
    print(f"set {name}: {len(done)} prompts; to make their models, run: prolific sweep {name}")
