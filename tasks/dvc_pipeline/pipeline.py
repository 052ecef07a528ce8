"""A prompt's DVC pipeline: prompts/<id>/dvc.yaml, the same text for every prompt, made from STAGES.

The command carries the id only: a prompt's text never reaches a shell.
"""

import re
from pathlib import Path

import yaml

from prolific_core.prompts import SECTIONS, Prompt, dump
from tasks.runtime.project import STAGES, Project, code_of


class _Plain(yaml.SafeDumper):
    """Repeats a list rather than refer to its first use."""

    def ignore_aliases(self, data) -> bool:
        return True


_HEAD = "# Made from STAGES in tasks/runtime/project.py, the same for every prompt: do not edit, it is written again.\n"


def text(project: Project) -> str:
    """The content of every prompts/<id>/dvc.yaml."""
    stages = {}
    for name, spec in STAGES.items():
        sections = list(spec.sections(name))
        stages[name] = {
            "wdir": "../..",
            # exec: the stage is then DVC's own child, and ends when DVC is killed.
            "cmd": f"exec python -m tasks.runtime.stage {name} ${{id}}",
            "deps": [
                *(path for path in code_of(name) if (project.root / path).exists()),
                *(f"runs/${{id}}/{earlier}" for earlier in spec.inputs),
            ],
            "params": [
                {"params.yaml": sections},
                {"presets/${preset}.yaml": sections},
                {"prompts/${id}/prompt.yaml": ["text", "seed", "preset", *sections]},
            ],
            "outs": [f"runs/${{id}}/{name}"],
        }
    return _HEAD + yaml.dump({"vars": ["prompt.yaml"], "stages": stages}, Dumper=_Plain, sort_keys=False, width=200)


def write(project: Project, prompt: Prompt) -> Path:
    """Make prompts/<id>/ of a new prompt; its folder."""
    folder = project.prompt_folder(prompt.id)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "prompt.yaml", dump(prompt))
    refresh(project, prompt.id)
    return folder


def refresh(project: Project, id: str) -> None:
    """Bring a prompt's files to what DVC needs: the pipeline as it is today, and no section missing."""
    folder = project.prompt_folder(id)
    _replace(folder / "dvc.yaml", text(project))
    prompt = project.prompt(id)
    missing = [section for section in SECTIONS if prompt.sections.get(section) is None]
    if missing:  # DVC calls a watched section that is absent an error; appended, so comments stay
        path = folder / "prompt.yaml"
        empty = re.compile(rf"({'|'.join(missing)})\s*:\s*(null|~)?\s*(#.*)?")
        lines = [line for line in path.read_text().splitlines() if not empty.fullmatch(line)]
        _replace(path, "\n".join([*lines, *(f"{section}: {{}}" for section in missing)]) + "\n")


def _replace(path: Path, content: str) -> None:
    """Write only what differs, whole or not at all."""
    if path.is_file() and path.read_text() == content:
        return
    partial = path.with_name(f".{path.name}")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
