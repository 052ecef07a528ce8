"""Generator of a prompt's DVC pipeline, prompts/<id>/dvc.yaml.

The file is generated from STAGES and from the prompt's parameters, which decide the guidance files and the models that
a stage uses, and the keys of params.yaml that have an effect. Its commands contain the prompt's id but not its text, so
the text is never passed to a shell.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from prolific_core import config_layers
from prolific_core.config import Config
from prolific_core.files import write_atomically
from prolific_core.prompts import SECTIONS, Prompt, dump
from tasks.runtime import curve
from tasks.runtime.job import METRICS
from tasks.runtime.project import STAGES, Project, code_of, models_of


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # pyright: ignore[reportGeneralTypeIssues]
    """YAML dumper that writes repeated lists in full instead of using anchors and aliases."""

    def ignore_aliases(self, data) -> bool:
        return True


_HEAD = "# Made from STAGES in tasks/runtime/project.py. Do not edit: it is written again.\n"


def text(project: Project, prompt: Prompt) -> str:
    """Return the content of prompts/<id>/dvc.yaml."""
    stages, config = {}, project.config(prompt)
    (_, shared), *over = project.layers(prompt)
    known, overridden = Config().model_dump(mode="json"), config_layers.merge(*(values for _, values in over))
    extended = [file for file, _ in project.preset_layers(prompt.preset)[:-1]]  # presets that the preset extends
    chosen = [values.keys() for _, values in project.system_layers(prompt.system_name)]  # sections of the system
    for name, spec in STAGES.items():
        sections = list(spec.sections(name))
        read = [key for section in sections for key in _keys_read(section, shared, known, overridden)]
        stages[name] = {
            "wdir": "../..",
            # With exec, the stage is a direct child of DVC and ends when DVC is killed.
            "cmd": f"exec python -m tasks {name} ${{id}}",
            "deps": [
                *(path for path in code_of(name, project.root, config) if (project.root / path).exists()),
                *(path.replace("${", "\\${") for path in models_of(name, project.root, config)),
                *(f"runs/${{id}}/{earlier}" for earlier in spec.inputs),
            ],
            "params": [
                *([{"params.yaml": read}] if read else []),
                *({file: sections} for file in extended),
                {"presets/${preset}.yaml": [*(["extends"] if extended else []), *sections]},
                *(
                    {"systems/${system_name}.yaml": own}
                    for keys in chosen
                    if (own := [section for section in sections if section in keys])
                ),
                {
                    "prompts/${id}/prompt.yaml": [
                        *("text", "seed", "preset", *(["system_name"] if prompt.system_name else [])),
                        *sections,
                    ]
                },
            ],
            "outs": [f"runs/${{id}}/{name}"],
        }
    content = {
        "vars": ["prompt.yaml"],
        "stages": stages,
        "metrics": _metrics(prompt.id),
        "plots": _plots(prompt.id, config),
    }
    return _HEAD + yaml.dump(content, Dumper=_Plain, sort_keys=False, width=200)


def _keys_read(path: str, shared: Any, known: Any, overridden: Any) -> list[str]:
    """Return the keys at and below `path` whose values in params.yaml have an effect, as few as possible.

    Without this, a number changed in params.yaml would run a stage again whose preset sets another number. A group that
    is incomplete in params.yaml is returned whole, so that DVC notices a key that is added to it, and so is a group
    whose keys are not fixed (the options of the guidance).

    Args:
        path: A dotted key.
        shared: The parameters of params.yaml, or one of their groups.
        known: The same group with all keys there are.
        overridden: The same group with the values of the preset, the system and the prompt.
    """
    name = path.rpartition(".")[2]
    if name not in overridden:
        return [path]
    shared, known, overridden = shared.get(name), known[name], overridden[name]
    if not isinstance(known, dict):
        return []
    if not known or not overridden or not isinstance(shared, dict) or known.keys() - shared.keys():
        return [path]
    return [key for child in known for key in _keys_read(f"{path}.{child}", shared, known, overridden)]


def _output(id: str, stage: str, file: str) -> str:
    """Return the path of an output's file relative to the pipeline's folder."""
    return f"../../runs/{id}/{stage}/{file}"


def _metrics(id: str) -> list[str]:
    return [_output(id, name, METRICS) for name, spec in STAGES.items() if spec.metrics]


def _plots(id: str, config: Config) -> list:
    """Return the plots at the top level of the pipeline.

    As outputs of a stage, they would overlap its output folder. A stage without steps has no curve.
    """
    curves: list = [
        {
            f"{name}_{value}": {
                "x": "step",
                "y": {_output(id, name, curve.FILE): value},
                "title": f"{id}: {name} {value}",
            }
        }
        for name, spec in STAGES.items()
        if spec.curves and getattr(config, name).steps > 0
        for value in spec.curves
    ]
    return [*curves, *(_output(id, name, image) for name, spec in STAGES.items() for image in spec.images)]


def write(project: Project, prompt: Prompt) -> None:
    """Create the folder of a new prompt, with its prompt.yaml and dvc.yaml."""
    folder = project.prompt_folder(prompt.id)
    _write_changes(folder / "prompt.yaml", dump(prompt))
    _write_changes(folder / "dvc.yaml", text(project, prompt))


def refresh(project: Project, prompt: Prompt) -> bool:
    """Update a prompt's dvc.yaml and add missing sections to its prompt.yaml. Return whether dvc.yaml has changed.

    DVC fails if a section that it tracks is missing. New sections are appended, so the user's comments are kept.
    """
    folder = project.prompt_folder(prompt.id)
    changed = _write_changes(folder / "dvc.yaml", text(project, prompt))
    missing = [section for section in SECTIONS if prompt.sections.get(section) is None]
    if missing:
        path = folder / "prompt.yaml"
        empty = re.compile(rf"({'|'.join(missing)})\s*:\s*(null|~)?\s*(#.*)?")
        lines = [line for line in path.read_text().splitlines() if not empty.fullmatch(line)]
        _write_changes(path, "\n".join([*lines, *(f"{section}: {{}}" for section in missing)]) + "\n")
    return changed


def _write_changes(path: Path, content: str) -> bool:
    """Write a file only if its content differs, so that an unchanged file keeps its modification time."""
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return False
    write_atomically(path, content.encode())
    return True
