"""Create and modify the prompts of a project, which are stored in prompts/<id>/.

All values are checked before any file is written.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO

from prolific_core import config_layers, prompts
from prolific_core.discovery import own_scale
from prolific_core.errors import InputError, shorten
from prolific_core.files import write_atomically
from prolific_core.prompts import DEFAULT_PRESET, Prompt
from prolific_core.yaml_reader import parse_yaml
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import Project

DEEPEST = 10  # levels of a parameter; the deepest one is nerf.guidance.score.rank


@dataclass(frozen=True)
class PromptRequest:
    """Request to create or change a prompt.

    If `seed`, `preset` or `system` is None, the value of an existing prompt is kept. `suffix` is appended to an id
    derived from the text. `where` is a prefix for error messages, for example the file and line of the request.
    """

    text: str
    id: str | None = None
    seed: int | None = None
    preset: str | None = None
    sections: dict = field(default_factory=dict)
    suffix: str = ""
    where: str = ""
    system: str | None = None


def plan(project: Project, request: PromptRequest) -> Prompt:
    """Return the prompt that a request creates or changes, without writing it to a file."""
    try:
        text = prompts.check_text(request.text)
        seed = request.seed if request.seed is not None else 0
        preset = request.preset if request.preset is not None else DEFAULT_PRESET
        if preset not in project.presets():
            raise InputError(f"no preset {preset!r}; known: {', '.join(project.presets())}")
        system = request.system or ""
        if system and system not in project.systems():
            raise InputError(f"no system {system!r}; known: {', '.join(project.systems())}")
        id = prompts.check_id(request.id) if request.id is not None else _make_id(project, request, text, seed, preset)
        if project.has_prompt(id):
            old = project.prompt(id)
            if old.text != text:
                raise InputError(
                    f"prompts/{id} already exists with the text {old.text!r}; choose another --id or remove it first"
                )
            seed = old.seed if request.seed is None else seed
            preset = old.preset if request.preset is None else preset
            system = old.system_name if request.system is None else system
            sections, forced = config_layers.merge(old.sections, request.sections), old.forced
        else:
            sections, forced = request.sections, False
        named = {"id": id, "text": text, "seed": seed, "preset": preset, "system_name": system}
        prompt = prompts.parse("prompt", named)
        prompt = replace(prompt, sections=sections, forced=forced)
        project.config(prompt)
    except InputError as error:
        raise InputError(f"{request.where}: {error}" if request.where else str(error)) from None
    return prompt


def put(project: Project, prompt: Prompt) -> str:
    """Write a prompt to its file and return "added", "changed" or "unchanged".

    Comments in an existing file are kept.
    """
    if not project.has_prompt(prompt.id):
        pipeline.write(project, prompt)
        return "added"
    old = project.prompt(prompt.id)
    if old == prompt:
        pipeline.refresh(project, prompt)
        return "unchanged"
    _edit(project, old, prompt)
    pipeline.refresh(project, prompt)
    return "changed"


def file_prompt(
    project: Project,
    text: str,
    *,
    preset: str = DEFAULT_PRESET,
    system: str = "",
    seed: int = 0,
    particles: int = 1,
    method: str = "vsd",
    id: str | None = None,
    own: dict | None = None,
    accept: Callable[[Prompt], Prompt] = lambda prompt: prompt,
) -> Prompt:
    """Return the prompt with these options, and create it if it does not exist.

    `own` contains sections that are written to the prompt's file. The file of an existing prompt may also set other
    parameters. Raises an InputError if its values of the other options differ. `accept` is called with the prompt
    before it is written, and returns the prompt to write.
    """
    suffix = (f"-p{particles}" if particles != 1 else "") + (f"-{method}" if method != "vsd" else "")
    own = own or {}
    sections = config_layers.merge(sections_of(particles, method), own)
    prompt = plan(project, PromptRequest(text, id, seed, preset, sections, suffix, system=system))
    old = project.prompt(prompt.id) if project.has_prompt(prompt.id) else None
    if old and replace(old, sections=config_layers.merge(old.sections, own)) != prompt:
        names = ("seed", "preset", "system_name")
        name = next((name for name in names if getattr(old, name) != getattr(prompt, name)), None)
        difference = f"{name} {getattr(old, name)!r}, not {getattr(prompt, name)!r}" if name else "other parameters"
        raise InputError(f"prompts/{prompt.id}/prompt.yaml has {difference}; edit that file or choose another --id")
    prompt = accept(prompt)
    put(project, prompt)
    return prompt


def settings(pairs: list[str], where: str = "--set") -> dict:
    """Parse KEY=VALUE pairs such as `nerf.steps=200` and return them as sections of a prompt.

    The values are in YAML. Raises an InputError if prolific_core/config.py does not allow a key or a value.
    """
    sections: dict = {}
    for pair in pairs:
        shown = f"{where} {shorten(pair)}"
        key, equals, text = pair.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path) or len(path) > DEEPEST:
            raise InputError(f"{shown}: a setting must be KEY=VALUE, for example nerf.steps=200")
        try:
            value = parse_yaml(text, shown)
        except InputError:
            raise InputError(f"{shown}: the value must be YAML, for example nerf.steps=200") from None
        for name in reversed(path):
            value = {name: value}
        checked = config_layers.check(where, value).model_dump(mode="json")
        for name in path:
            value, checked = value[name], checked[name]
        if isinstance(value, dict) or isinstance(checked, dict):
            raise InputError(f"{shown}: '{key}' is a group of parameters; set one of its parameters instead")
        for name in reversed(path):
            checked = {name: checked}
        sections = config_layers.merge(sections, checked)
    return sections


def sections_of(particles: int, method: str) -> dict:
    """Return the prompt sections that correspond to these options of `prolific generate`."""
    sections: dict = {}
    if particles != 1:
        sections["initialise"] = {"particles": particles}
    if method != "vsd":
        scale = own_scale(method)
        own = {"guidance": {"method": method} | ({} if scale is None else {"scale": scale})}
        sections |= {"nerf": own, "texture": own}
    return sections


def _make_id(project: Project, request: PromptRequest, text: str, seed: int, preset: str) -> str:
    """Return a readable id for a text and its options that no other text uses."""
    suffix = (f"-s{seed}" if seed else "") + (
        f"-{preset.lower().replace('_', '-')}" if preset != DEFAULT_PRESET else ""
    )
    suffix += f"-{request.system.lower().replace('_', '-')}" if request.system else ""
    id = prompts.make_id(text, suffix=suffix + request.suffix)
    if project.has_prompt(id) and project.prompt(id).text != text:  # for example "a red mug!" and "a red mug?"
        id = prompts.make_id(text, suffix=suffix + request.suffix, distinct=True)
    return id


def _edit(project: Project, old: Prompt, new: Prompt) -> None:
    """Update the changed values in a prompt's file, and keep the user's comments and layout."""
    from ruamel.yaml import YAML

    path = project.prompt_folder(new.id) / "prompt.yaml"
    editor = YAML()
    editor.preserve_quotes, editor.width = True, 10_000
    document = editor.load(path.read_text(encoding="utf-8"))
    forced = {"forced": True} if new.forced else {}
    system = {"system_name": new.system_name} if new.system_name != old.system_name else {}
    _update(
        document,
        {"seed": old.seed, "preset": old.preset, **old.sections},
        {"seed": new.seed, "preset": new.preset, **system, **forced, **new.sections},
    )
    stream = BytesIO()
    editor.dump(document, stream)
    write_atomically(path, stream.getvalue())


def _update(document, old: dict, new: dict) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _update(document[key], old.get(key) or {}, value)
        elif key not in old or old[key] != value:
            document[key] = value
