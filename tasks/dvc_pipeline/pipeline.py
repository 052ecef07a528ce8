"""Generator of a prompt's DVC pipeline, prompts/<id>/dvc.yaml.

The file is generated from STAGES and differs between prompts only in the models of the user's own that they use. Its
commands contain the prompt's id but not its text, so the text is never passed to a shell.
"""

import re
from pathlib import Path

import yaml

from prolific_core.files import write_atomically
from prolific_core.prompts import SECTIONS, Prompt, dump
from tasks.runtime.project import STAGES, Project, code_of, models_of


class _Plain(yaml.SafeDumper):
    """YAML dumper that writes repeated lists in full instead of using anchors and aliases."""

    def ignore_aliases(self, data) -> bool:
        return True


_HEAD = "# Made from STAGES in tasks/runtime/project.py. Do not edit: it is written again.\n"


def text(project: Project, prompt: Prompt) -> str:
    """Return the content of prompts/<id>/dvc.yaml."""
    stages, config = {}, project.config(prompt)
    for name, spec in STAGES.items():
        sections = list(spec.sections(name))
        stages[name] = {
            "wdir": "../..",
            # With exec, the stage is a direct child of DVC and ends when DVC is killed.
            "cmd": f"exec python -m tasks {name} ${{id}}",
            "deps": [
                *(path for path in code_of(name) if (project.root / path).exists()),
                *(path.replace("${", "\\${") for path in models_of(name, project.root, config)),
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


def write(project: Project, prompt: Prompt) -> None:
    """Create the folder of a new prompt, with its prompt.yaml and dvc.yaml."""
    folder = project.prompt_folder(prompt.id)
    _write_changes(folder / "prompt.yaml", dump(prompt))
    _write_changes(folder / "dvc.yaml", text(project, prompt))


def refresh(project: Project, prompt: Prompt) -> None:
    """Update a prompt's dvc.yaml and add missing sections to its prompt.yaml.

    DVC fails if a section that it tracks is missing. New sections are appended, so the user's comments are kept.
    """
    folder = project.prompt_folder(prompt.id)
    _write_changes(folder / "dvc.yaml", text(project, prompt))
    missing = [section for section in SECTIONS if prompt.sections.get(section) is None]
    if missing:
        path = folder / "prompt.yaml"
        empty = re.compile(rf"({'|'.join(missing)})\s*:\s*(null|~)?\s*(#.*)?")
        lines = [line for line in path.read_text().splitlines() if not empty.fullmatch(line)]
        _write_changes(path, "\n".join([*lines, *(f"{section}: {{}}" for section in missing)]) + "\n")


def _write_changes(path: Path, content: str) -> None:
    """Write a file only if its content differs, so that an unchanged file keeps its modification time."""
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        write_atomically(path, content.encode())
