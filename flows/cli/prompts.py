"""`prolific prompts`: add, list, remove, import. Imports nothing heavy."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from prolific_core.errors import InputError


def add_to(commands) -> None:
    prompts = commands.add_parser("prompts", help="the prompts on file: add, list, remove, import")
    actions = prompts.add_subparsers(dest="action", required=True, metavar="ACTION")
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--seed", type=int, help="another seed, another model (default 0)")
    own.add_argument("--preset", help="a file in presets/ (default demo)")
    own.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a number of its own, for example nerf.steps=200; may be repeated",
    )

    add = actions.add_parser("add", parents=[own], help="put a prompt on file, or change the numbers of one that is")
    add.add_argument("text", help='what to make, for example "a red mug"')
    add.add_argument("--id", help="file it under this name (default: made from the text)")
    add.set_defaults(run=_add)

    show = actions.add_parser("list", help="what is on file, and how many stages of it are made")
    show.add_argument("names", nargs="*", metavar="NAME", help="ids, sets or patterns such as 'a-red-*' (default: all)")
    show.add_argument("--json", action="store_true", help="one JSON array")
    show.set_defaults(run=_list)

    remove = actions.add_parser("remove", help="delete prompts and what was made of them")
    remove.add_argument("ids", nargs="+", metavar="ID")
    remove.set_defaults(run=_remove)

    read = actions.add_parser("import", parents=[own], help="put all prompts of a file on file, as a set of its name")
    read.add_argument(
        "file",
        type=Path,
        help=".txt: a line each; .csv: columns text, id, seed, preset, nerf.steps, ...; .yaml: a list",
    )
    read.add_argument("--name", help="of the set (default: the file's)")
    read.set_defaults(run=_import)


def _add(options: argparse.Namespace) -> None:
    from flows.prompt_store import sets
    from tasks.runtime.project import Project

    project = Project.find()
    sections = sets.settings(options.set)
    prompt = sets.plan(project, sets.Wanted(options.text, options.id, options.seed, options.preset, sections))
    print(f"{prompt.id}: {sets.put(project, prompt)}")
    from flows.prompt_store.create import warn_of_unknown_words

    warn_of_unknown_words(project, prompt)


def _list(options: argparse.Namespace) -> None:
    from flows.prompt_store import sets
    from tasks.runtime.project import STAGES, Project

    project = Project.find()
    found = [project.prompt(id) for id in sets.select(project, options.names)]
    made = {prompt.id: sets.made(project, prompt.id) for prompt in found}
    if options.json:
        print(
            json.dumps(
                [
                    {name: getattr(p, name) for name in ("id", "text", "seed", "preset")} | {"stages": made[p.id]}
                    for p in found
                ]
            )
        )
        return
    # The text last: what does not fit in the terminal is cut.
    rows = [(f"{made[p.id]}/{len(STAGES)}", p.preset, str(p.seed), p.id, p.text) for p in found]
    rows.insert(0, ("made", "preset", "seed", "id", "text"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    end = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True))
        print(line if end is None or len(line) <= end else line[: end - 1] + "…")
    known = sets.set_names(project)
    if known and not options.names:
        print("sets: " + ", ".join(known))


def _remove(options: argparse.Namespace) -> None:
    from flows.prompt_store import sets
    from tasks.runtime.project import Project

    project = Project.find()
    for id in options.ids:
        project.prompt(id)  # all are there, or nothing is removed
    for id in options.ids:
        sets.remove(project, id)
        print(f"{id}: removed")


def _import(options: argparse.Namespace) -> None:
    from flows.prompt_store import sets
    from tasks.runtime.project import Project

    project = Project.find()
    default = sets.Wanted("", None, options.seed, options.preset, sets.settings(options.set))
    if not options.file.is_file():
        raise InputError(f"{options.file}: no such file")
    name, done = sets.import_file(project, options.file, options.name, default)
    for id, what in done.items():
        print(f"{id}: {what}")
    print(f"set {name}: {len(done)} prompts; to make them: prolific sweep {name}")
