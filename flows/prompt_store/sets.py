"""The prompts on file as a set: made, edited, imported, removed, and named for a sweep.

A set is a text file of ids, prompts/<name>.txt; `prolific prompts import NAME.txt` writes one, and so
may a user. Everything is checked before anything is written.
"""

import csv
import fnmatch
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from flows.prompt_store import create
from prolific_core import config, prompts
from prolific_core.errors import InputError
from prolific_core.files import write_atomically
from prolific_core.prompts import DEFAULT_PRESET, Prompt
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import STAGES, Project
from tasks.tracking.prompt_runs import EXPERIMENT, Group, row

EVERY = "every prompt"  # the experiment of a sweep that names nothing


@dataclass(frozen=True)
class Wanted:
    """One prompt as asked for: None and empty say nothing. `where` it was asked for, for messages."""

    text: str
    id: str | None = None
    seed: int | None = None
    preset: str | None = None
    sections: dict = field(default_factory=dict)
    where: str = ""


def settings(pairs: list[str], where: str = "--set") -> dict:
    """Sections from KEY=VALUE pairs such as `nerf.steps=200`; values are YAML.

    Raises InputError for a key or value that prolific_core/config.py does not allow.
    """
    sections: dict = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise InputError(f"{where} {pair}: write KEY=VALUE, for example {where} nerf.steps=200")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(
                f"{where} {pair}: the value is not YAML; write for example {where} nerf.steps=200"
            ) from None
        for name in reversed(path):
            value = {name: value}
        checked = config.check(where, value).model_dump(mode="json")
        for name in path:
            value, checked = value[name], checked[name]
        if isinstance(value, dict) or isinstance(checked, dict):
            raise InputError(f"{where} {pair}: '{key}' is a group of numbers; name one of them")
        for name in reversed(path):
            checked = {name: checked}  # as checked: 1e-3 is text in YAML 1.1
        sections = config.merge(sections, checked)
    return sections


def plan(project: Project, wanted: Wanted) -> Prompt:
    """The prompt that this makes, or makes of the one on file; nothing is written."""
    try:
        text = prompts.check_text(wanted.text)
        seed = wanted.seed if wanted.seed is not None else 0
        preset = wanted.preset if wanted.preset is not None else DEFAULT_PRESET
        if preset not in project.presets():
            raise InputError(f"no preset {preset!r}; known: {', '.join(project.presets())}")
        id = (
            prompts.check_id(wanted.id)
            if wanted.id is not None
            else create.id_for(project, text, seed=seed, preset=preset)
        )
        if not _on_file(project, id):
            values = {"id": id, "text": text, "seed": seed, "preset": preset, **wanted.sections}
            prompt = prompts.parse("prompt", values)
        else:
            old = project.prompt(id)
            if old.text != text:
                raise InputError(f"prompts/{id} is {old.text!r} already; choose another --id, or remove it first")
            values = {"id": id, "text": text, "seed": old.seed if wanted.seed is None else seed}
            values |= {"preset": old.preset if wanted.preset is None else preset}
            prompt = replace(prompts.parse("prompt", values), sections=config.merge(old.sections, wanted.sections))
        project.config(prompt)
    except InputError as error:
        raise InputError(f"{wanted.where}: {error}" if wanted.where else str(error)) from None
    return prompt


def put(project: Project, prompt: Prompt) -> str:
    """Write a planned prompt; "made", "changed" or "unchanged". Comments in its file stay."""
    if not _on_file(project, prompt.id):
        pipeline.write(project, prompt)
        return "made"
    old = project.prompt(prompt.id)
    if old == prompt:
        return "unchanged"
    _edit(project.prompt_folder(prompt.id) / "prompt.yaml", old, prompt)
    pipeline.refresh(project, prompt.id)
    return "changed"


def read(path: Path, default: Wanted) -> list[Wanted]:
    """The prompts of a .txt (a line each), .csv (columns as the options) or .yaml (a list) file."""
    readers = {".txt": _lines, ".csv": _table, ".yaml": _entries, ".yml": _entries}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path.name}: a file of prompts ends in .txt, .csv or .yaml")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        rows = readers[path.suffix.lower()](path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name}: not readable as {path.suffix[1:]} in UTF-8 ({error})") from None
    if not rows:
        raise InputError(f"{path.name} has no prompts")
    return [_wanted(where, values, default) for where, values in rows]


def import_file(project: Project, path: Path, name: str | None, default: Wanted) -> tuple[str, dict[str, str]]:
    """Put all prompts of a file on file, and their ids into the set `name` (the file's own, if None).

    The set's name, and what was done by id.
    """
    if project.root / "prompts" in path.resolve().parents:
        raise InputError(
            f"{path} is in prompts/, where files name prompts that are there; to run it: prolific sweep {path.stem}"
        )
    name = prompts.check_id(name) if name is not None else prompts.make_id(path.stem)
    if _on_file(project, name):
        raise InputError(f"there is a prompt '{name}'; give the set another name with --name")
    planned: dict[str, Prompt] = {}
    for wanted in read(path, default):
        prompt = plan(project, wanted)
        if planned.setdefault(prompt.id, prompt) != prompt:
            raise InputError(
                f"{wanted.where}: '{prompt.id}' was given before with other values; give it an id of its own"
            )
    done = {id: put(project, prompt) for id, prompt in planned.items()}
    write_atomically(_set_file(project, name), "".join(f"{id}\n" for id in done).encode())
    return name, done


def select(project: Project, names: list[str]) -> list[str]:
    """Ids, from ids, names of sets and patterns such as 'a-red-*'; all prompts when nothing is named."""
    known, found = project.prompt_ids(), []
    for name in names:
        if any(sign in name for sign in "*?["):
            ids = fnmatch.filter(known, name)
            if not ids:
                raise InputError(f"no prompt matches '{name}'; prolific prompts list shows all")
        elif name in set_names(project):
            if name in known:
                raise InputError(f"'{name}' is a prompt and a set (prompts/{name}.txt); rename the set")
            ids = _members(project, name)
        else:
            ids = [project.prompt(name).id]
        found += ids
    return list(dict.fromkeys(found if names else known))


def group(project: Project, names: list[str]) -> Group:
    """What a sweep over these names is to MLflow: an experiment of their name; a prompt alone is in the project's."""
    try:
        rows = [row(project.prompt(id)) for id in select(project, names)]
    except InputError:  # a file was edited while the sweep runs: no reason to fail
        rows = []
    alone = len(names) == 1 and names[0] in project.prompt_ids()
    return Group(EXPERIMENT if alone else ", ".join(names)[:200] or EVERY, rows)


def set_names(project: Project) -> list[str]:
    """The names of all sets."""
    return sorted(path.stem for path in (project.root / "prompts").glob("*.txt"))


def remove(project: Project, id: str) -> None:
    """Forget a prompt: its folder, outputs, report, logs, and its line in sets.

    What DVC cached of it stays until `dvc gc`, so that adding it again runs nothing.
    """
    from flows.orchestration import run_status
    from flows.reporting.report import path_of

    project.prompt(id)
    with run_status.prompt_lock(project, id, None):
        for name in set_names(project):
            file = _set_file(project, name)
            lines = file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.strip() != id]
            if kept != lines:
                write_atomically(file, "".join(kept).encode())
        for folder in (project.root / "runs" / id, project.state / id, project.prompt_folder(id)):
            shutil.rmtree(folder, ignore_errors=True)
    path_of(project, id).unlink(missing_ok=True)


def made(project: Project, id: str) -> int:
    """How many of the stages have an output."""
    return sum((project.output(id, stage) / "manifest.json").is_file() for stage in STAGES)


def _on_file(project: Project, id: str) -> bool:
    return (project.prompt_folder(id) / "prompt.yaml").exists()


def _set_file(project: Project, name: str) -> Path:
    return project.root / "prompts" / f"{name}.txt"


def _members(project: Project, name: str) -> list[str]:
    known, ids = project.prompt_ids(), []
    for number, line in enumerate(_set_file(project, name).read_text(encoding="utf-8").splitlines(), 1):
        id = line.strip()
        if not id or id.startswith("#"):
            continue
        if id not in known:
            raise InputError(f"prompts/{name}.txt, line {number}: no prompt '{id}'; add it, or delete the line")
        ids.append(id)
    if not ids:
        raise InputError(f"prompts/{name}.txt names no prompts: write their ids, one per line")
    return ids


def _edit(path: Path, old: Prompt, new: Prompt) -> None:
    """Only what differs, so that a user's comments and layout stay."""
    from io import BytesIO

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    document = yaml.load(path.read_text(encoding="utf-8"))
    _put(
        document,
        {"seed": old.seed, "preset": old.preset, **old.sections},
        {"seed": new.seed, "preset": new.preset, **new.sections},
    )
    stream = BytesIO()
    yaml.dump(document, stream)
    write_atomically(path, stream.getvalue())


def _put(document, old: dict, new: dict) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _put(document[key], old.get(key) or {}, value)
        elif key not in old or old[key] != value:
            document[key] = value


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
                f"{path.name}: the first line names the columns: text, and if wanted id, seed, preset, nerf.steps, ..."
            )
        found = []
        for row in rows:
            where = f"{path.name}, line {rows.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: not as many cells as columns; put a text with a comma in quotes")
            values = {key: row[key] for key in ("text", "id", "preset") if row.get(key)}
            if row.get("seed"):
                values["seed"] = yaml.safe_load(row["seed"])
            own = [f"{key}={cell}" for key, cell in row.items() if key not in ("text", "id", "seed", "preset") and cell]
            found.append((where, {"text": "", **values, **settings(own, where)}))
    return found


def _entries(path: Path) -> list[tuple[str, dict]]:
    entries = prompts.read_yaml(path, path.name)
    if not isinstance(entries, list):
        raise InputError(
            f"{path.name}: expected a list of prompts: texts, or entries with 'text:' and what prompt.yaml may have"
        )
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{path.name}, prompt {number}"
        values = entry if isinstance(entry, dict) else {"text": entry}
        if "text" not in values:
            raise InputError(f"{where}: 'text' is missing")
        config.check(
            where, {key: value for key, value in values.items() if key not in ("text", "id", "seed", "preset")}
        )
        found.append((where, values))
    return found


def _wanted(where: str, values: dict, default: Wanted) -> Wanted:
    own = {key: values.get(key, getattr(default, key)) for key in ("text", "id", "seed", "preset")}
    sections = {key: value for key, value in values.items() if key not in own}
    return Wanted(**own, sections=config.merge(default.sections, sections), where=where)
