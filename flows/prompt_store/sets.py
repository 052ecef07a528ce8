"""Import, select and remove prompts, and manage sets of prompts.

A set is a text file of prompt ids, prompts/<name>.txt, written by `prolific prompts import` or by hand.
"""

import contextlib
import csv
import difflib
import fnmatch
import shutil
from dataclasses import replace
from pathlib import Path

from flows.prompt_store import create, vocabulary
from flows.prompt_store.create import PromptRequest
from prolific_core import config_layers, prompts
from prolific_core.errors import InputError
from prolific_core.files import write_atomically
from prolific_core.prompts import Prompt
from prolific_core.yaml_reader import parse_yaml, read_yaml
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import Project
from tasks.tracking.prompt_runs import EXPERIMENT, Group, row

EVERY = "every prompt"  # title of a sweep over all prompts
# Keys of a prompt in a file, and their fields of PromptRequest; `system` is a section of the parameters.
_REQUEST = {"text": "text", "id": "id", "seed": "seed", "preset": "preset", "system_name": "system"}


def read(path: Path, default: PromptRequest) -> list[PromptRequest]:
    """Read prompts from a .txt file (one per line), a .csv file (with a header) or a .yaml file (a list)."""
    readers = {".txt": _lines, ".csv": _table, ".yaml": _entries, ".yml": _entries}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path.name}: a file of prompts must be a .txt, .csv or .yaml file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        rows = readers[path.suffix.lower()](path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name} must be a valid {path.suffix[1:]} file in UTF-8 ({error})") from None
    if not rows:
        raise InputError(f"{path.name} has no prompts")
    return [_request(where, values, default) for where, values in rows]


def import_file(
    project: Project, path: Path, name: str | None, default: PromptRequest, force: bool = False
) -> tuple[str, dict[str, str]]:
    """Add all prompts in a file, and save their ids as the set `name` (by default the file's name).

    With `force`, prompts that the prior does not know are added too; see `vocabulary.accept`. Returns the name of the
    set and a dictionary that maps each id to "added", "changed" or "unchanged".
    """
    if project.root / "prompts" in path.resolve().parents:
        raise InputError(f"{path} is already a set, because it is in prompts/; to run it: prolific sweep {path.stem}")
    name = prompts.check_id(name) if name is not None else prompts.make_id(path.stem)
    if project.has_prompt(name):
        raise InputError(f"a prompt named '{name}' already exists; choose another name for the set with --name")
    planned: dict[str, Prompt] = {}
    for request in read(path, default):
        prompt = create.plan(project, request)
        if planned.setdefault(prompt.id, prompt) != prompt:
            raise InputError(
                f"{request.where}: '{prompt.id}' occurs twice with different values; give each prompt its own id"
            )
    accepted = vocabulary.accept(project, list(planned.values()), force)
    done = {prompt.id: create.put(project, prompt) for prompt in accepted}
    write_atomically(_set_file(project, name), "".join(f"{id}\n" for id in done).encode())
    return name, done


def select(project: Project, names: list[str]) -> list[str]:
    """Return the ids of the prompts that match `names`, or of all prompts if `names` is empty.

    Each name is a prompt id, the name of a set or a pattern such as 'a-red-*'.
    """
    known, found = project.prompt_ids(), []
    for name in names:
        if any(sign in name for sign in "*?["):
            ids = fnmatch.filter(known, name)
            if not ids:
                raise InputError(f"no prompt matches '{name}'; see `prolific prompts list`")
        elif name in set_names(project):
            if name in known:
                raise InputError(f"'{name}' is both a prompt and a set (prompts/{name}.txt); rename the set")
            ids = _members(project, name)
        else:
            prompts.check_id(name)
            if not project.has_prompt(name):
                near = difflib.get_close_matches(name, [*known, *set_names(project)], 1)
                hint = f"; did you mean '{near[0]}'?" if near else "; see `prolific prompts list`"
                raise InputError(f"no prompt or set '{name}'{hint}")
            ids = [name]
        found += ids
    return list(dict.fromkeys(found if names else known))


def group(project: Project, names: list[str]) -> Group:
    """Return the MLflow experiment and dataset of a sweep over `names`."""
    rows = []
    with contextlib.suppress(InputError):  # a set may have been edited during the sweep
        for id in select(project, names):
            with contextlib.suppress(InputError):  # a prompt without a valid file has no row
                rows.append(row(project.prompt(id)))
    return Group(experiment(project, names), rows)


def experiment(project: Project, names: list[str]) -> str:
    """Return the MLflow experiment of a sweep over `names`. A single prompt is in the project's default experiment."""
    alone = len(names) == 1 and names[0] in project.prompt_ids()
    return EXPERIMENT if alone else title(names)[:200]


def title(names: list[str]) -> str:
    """Return the title that a sweep over these names has in MLflow and Prefect."""
    return ", ".join(names) or EVERY


def set_names(project: Project) -> list[str]:
    """Return the names of all sets."""
    return sorted(path.stem for path in (project.root / "prompts").glob("*.txt"))


def remove(project: Project, id: str) -> None:
    """Delete a prompt's folder, outputs, report and logs, and remove its id from all sets.

    DVC's cache keeps the outputs until `dvc gc` is run. If the prompt is added again before that, its outputs are
    restored and no stage runs. The prompt's file need not be valid.
    """
    project.require_prompt(id)
    with prompt_lock(project, id):
        for name in set_names(project):
            file = _set_file(project, name)
            lines = file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.strip() != id]
            if kept != lines:
                write_atomically(file, "".join(kept).encode())
        for folder in (project.root / "runs" / id, project.state / id, project.prompt_folder(id)):
            shutil.rmtree(folder, ignore_errors=True)
    project.report(id).unlink(missing_ok=True)


def _set_file(project: Project, name: str) -> Path:
    return project.root / "prompts" / f"{name}.txt"


def _members(project: Project, name: str) -> list[str]:
    known, ids = project.prompt_ids(), []
    for number, line in enumerate(_set_file(project, name).read_text(encoding="utf-8").splitlines(), 1):
        id = line.strip()
        if not id or id.startswith("#"):
            continue
        if id not in known:
            raise InputError(f"prompts/{name}.txt, line {number}: no prompt '{id}'; add it or delete the line")
        ids.append(id)
    if not ids:
        raise InputError(f"prompts/{name}.txt must contain prompt ids, one per line")
    return ids


def _lines(path: Path) -> list[tuple[str, dict]]:
    lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
    return [
        (f"{path.name}, line {n}", {"text": line}) for n, line in lines if line.strip() and not line.startswith("#")
    ]


def _table(path: Path) -> list[tuple[str, dict]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        if "text" not in (rows.fieldnames or []):
            raise InputError(
                f"{path.name}: the first line must name the columns: text, and optionally id, seed, preset, "
                "system_name, nerf.steps"
            )
        found = []
        for row in rows:
            where = f"{path.name}, line {rows.line_num}"
            if None in row or None in row.values():
                raise InputError(
                    f"{where}: the line must have as many cells as the header; put text with a comma in quotes"
                )
            values = {key: row[key] for key in _REQUEST if key != "seed" and row.get(key)}
            if row.get("seed"):
                values["seed"] = parse_yaml(row["seed"], where)
            own = [f"{key}={cell}" for key, cell in row.items() if key not in _REQUEST and cell]
            found.append((where, {"text": "", **values, **create.settings(own, where)}))
    return found


def _entries(path: Path) -> list[tuple[str, dict]]:
    entries = read_yaml(path, path.name)
    if not isinstance(entries, list):
        raise InputError(
            f"{path.name} must be a list of texts, or of entries with 'text:' and optionally keys of prompt.yaml"
        )
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{path.name}, prompt {number}"
        values = entry if isinstance(entry, dict) else {"text": entry}
        if "text" not in values:
            raise InputError(f"{where}: 'text' is missing")
        config_layers.check(where, {key: value for key, value in values.items() if key not in _REQUEST})
        found.append((where, values))
    return found


def _request(where: str, values: dict, default: PromptRequest) -> PromptRequest:
    own = {name: values.get(key, getattr(default, name)) for key, name in _REQUEST.items()}
    sections = {key: value for key, value in values.items() if key not in _REQUEST}
    return replace(default, **own, sections=config_layers.merge(default.sections, sections), where=where)
