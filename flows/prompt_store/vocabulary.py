"""Check that the prior knows a prompt, before hours are spent on it.

Only priors that were trained on the captions of the Toybox world have a vocabulary. Any text is a prompt for others,
such as Stable Diffusion. A prompt that was accepted although the prior does not know it is marked as `forced` in its
file.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prolific_core.config import Config
from prolific_core.errors import InputError, shorten
from prolific_core.prompts import Prompt
from tasks.runtime.failures import complain
from tasks.runtime.project import Project

LISTED = 10  # prompts that are named if many are unknown
HINT = "`prolific prior vocabulary` lists all words"


def has_vocabulary(project: Project, config: Config) -> bool:
    """Return whether the prior was trained on the captions of the Toybox world only."""
    from prolific_core.toybox.grammar import is_closed

    folder = project.root / Path(config.prior.path).expanduser()
    packaged = config.prior.path == "toybox"
    return is_closed(str(folder) if folder.is_dir() and not packaged else config.prior.path)


def problem(project: Project, text: str, config: Config) -> str | None:
    """Return why the prior does not know a text, and the nearest known prompt, or None if it knows the text."""
    if not has_vocabulary(project, config):
        return None
    from prolific_core.toybox.grammar import explain

    return explain(text)


def check(project: Project, prompt: Prompt, config: Config) -> None:
    """Raise an InputError if the prior does not know a prompt and the prompt is not marked as forced."""
    if not prompt.forced and (found := problem(project, prompt.text, config)):
        raise InputError(f"{prompt.id}: {found}; to run it anyway: prolific sweep --force {prompt.id}")


def warn(project: Project, text: str, config: Config) -> None:
    """Print a warning if the prior does not know a text."""
    if found := problem(project, text, config):
        complain(f"warning: {found}")


def accept(project: Project, prompts: list[Prompt], force: bool, ask: bool = True) -> list[Prompt]:
    """Return the prompts, and mark those that the prior does not know as forced.

    Without `force`, the user is asked in a terminal. Without a terminal or `ask`, or if the answer is no, an InputError
    is raised.
    """
    problems = {}
    for prompt in prompts:
        if not prompt.forced and (found := problem(project, prompt.text, project.config(prompt))):
            problems[prompt.id] = found if len(prompts) == 1 else f'"{shorten(prompt.text)}": {found}'
    if problems and not force:
        _refuse(list(problems.values()), len(prompts), ask)
    return [replace(prompt, forced=True) if prompt.id in problems else prompt for prompt in prompts]


def acceptance(project: Project, force: bool = False, ask: bool = True) -> Callable[[Prompt], Prompt]:
    """Return a function that accepts one prompt; see `accept`."""
    return lambda prompt: accept(project, [prompt], force, ask)[0]


def _refuse(problems: list[str], count: int, ask: bool) -> None:
    """Raise an InputError that names the problems, unless the user is asked and says yes."""
    if count > 1:
        for line in problems[:LISTED]:
            complain(line)
        if len(problems) > LISTED:
            complain(f"… and {len(problems) - LISTED} more")
    message = problems[0] if count == 1 else f"the prior does not know {len(problems)} of {count} prompts"
    if not ask or not all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise InputError(f"{message}; {HINT}; to go on anyway, add --force")
    complain(f"{message}; {HINT}")
    print("Go on anyway? [y/N]: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("stopped; nothing was made")
