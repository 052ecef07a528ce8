"""From a sentence to a prompt on file: the folder prompts/<id>/, made or found again."""

import sys

from prolific_core import prompts
from prolific_core.errors import InputError
from prolific_core.prompts import DEFAULT_PRESET, Prompt
from tasks.dvc_pipeline import pipeline
from tasks.runtime.project import Project

# What a point mass needs in place of a learned score (DreamFusion, arXiv 2209.14988).
_SDS = {"guidance": {"method": "sds", "scale": 100.0}}


def file_prompt(
    project: Project,
    text: str,
    *,
    preset: str = DEFAULT_PRESET,
    seed: int = 0,
    particles: int = 1,
    method: str = "vsd",
    id: str | None = None,
) -> Prompt:
    """The prompt on file for these; made when there is none. Everything is checked before it is written."""
    text = prompts.check_text(text)
    sections = sections_of(particles, method)
    if preset not in project.presets():
        raise InputError(f"--preset: no preset '{preset}'; known: {', '.join(project.presets())}")
    if id is not None:
        prompts.check_id(id)
    else:
        id = id_for(project, text, seed=seed, preset=preset, particles=particles, method=method)
    prompt = prompts.parse("prompt", {"id": id, "text": text, "seed": seed, "preset": preset, **sections})
    if (project.prompt_folder(id) / "prompt.yaml").exists():
        return _found(project, prompt)
    project.config(prompt)
    pipeline.write(project, prompt)
    return prompt


def id_for(
    project: Project, text: str, *, seed: int = 0, preset: str = DEFAULT_PRESET, particles: int = 1, method: str = "vsd"
) -> str:
    """A readable id for a text and options; another one when it is taken by another text."""
    suffix = "".join(
        [
            f"-s{seed}" if seed else "",
            f"-{preset.lower().replace('_', '-')}" if preset != DEFAULT_PRESET else "",
            f"-p{particles}" if particles != 1 else "",
            f"-{method}" if method != "vsd" else "",
        ]
    )
    id = prompts.make_id(text, suffix=suffix)
    if _taken(project, id, text):  # "a red mug!" and "a red mug?" have the same words
        id = prompts.make_id(text, suffix=suffix, distinct=True)
    return id


def sections_of(particles: int, method: str) -> dict:
    """What the options of `prolific generate` put into a prompt's own sections."""
    sections: dict = {}
    if particles != 1:
        sections["initialise"] = {"particles": particles}
    if method != "vsd":
        own = _SDS if method == "sds" else {"guidance": {"method": method}}
        sections |= {"nerf": own, "texture": own}
    return sections


def _taken(project: Project, id: str, text: str) -> bool:
    return (project.prompt_folder(id) / "prompt.yaml").exists() and project.prompt(id).text != text


def _found(project: Project, wanted: Prompt) -> Prompt:
    """The prompt on file, whose own numbers the user may have edited; not if it is another one."""
    prompt = project.prompt(wanted.id)
    for name in ("text", "seed", "preset"):
        if getattr(prompt, name) != getattr(wanted, name):
            raise InputError(
                f"prompts/{wanted.id}/prompt.yaml has {name} {getattr(prompt, name)!r}, not {getattr(wanted, name)!r}; "
                "edit that file or choose another --id"
            )
    for section, values in wanted.sections.items():
        on_file = prompt.sections.get(section) or {}
        if prompts_differ(on_file, values):
            raise InputError(
                f"prompts/{wanted.id}/prompt.yaml has other values under '{section}' than asked for; "
                "edit that file or choose another --id"
            )
    return prompt


def prompts_differ(on_file: dict, wanted: dict) -> bool:
    """Whether a wanted value, however deep, is not the one on file."""
    for key, value in wanted.items():
        found = on_file.get(key)
        if isinstance(value, dict):
            if not isinstance(found, dict) or prompts_differ(found, value):
                return True
        elif found != value:
            return True
    return False


def warn_of_unknown_words(project: Project, prompt: Prompt) -> None:
    """One line when the Toybox has never seen a word; other priors know more than we can tell."""
    if project.config(prompt).prior.path != "toybox":
        return
    try:
        from prolific_core.toybox.world.captions import suggest
    except ImportError:
        return
    unknown, known = suggest(prompt.text)
    if unknown:
        words = ", ".join(f"'{word}'" for word in unknown[:5])
        print(
            f"prolific: warning: the Toybox does not know {words}; it knows, for example, {', '.join(known[:8])}",
            file=sys.stderr,
        )
