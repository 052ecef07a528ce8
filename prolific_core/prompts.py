"""A prompt: its text, seed and preset, the safe name it is filed under, and the file that holds it.

The text is never part of a path or a shell command: files and commands carry the id, which is
letters, digits and hyphens.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from prolific_core.config import Config
from prolific_core.errors import InputError

MAX_TEXT = 1000  # characters
MAX_ID = 60
DEFAULT_PRESET = "demo"
# DVC wants every section it watches to be present in the file, if empty.
SECTIONS = tuple(name for name in Config.model_fields if name != "logging")
_KEYS = ("id", "text", "seed", "preset")
_ID = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Prompt:
    """One thing to make. `sections` are its own parameters, over those of its preset."""

    id: str
    text: str
    seed: int = 0
    preset: str = DEFAULT_PRESET
    sections: dict = field(default_factory=dict)


def check_text(text: str) -> str:
    """The text without outer spaces, or InputError: empty, too long, or with control characters."""
    if not isinstance(text, str):
        raise InputError(f"the prompt must be text, not {text!r}; put it in quotes")
    text = text.strip()
    if not text:
        raise InputError('the prompt is empty; describe one thing, for example "a red mug"')
    if len(text) > MAX_TEXT:
        raise InputError(f"the prompt has {len(text)} characters; at most {MAX_TEXT} are allowed, so shorten it")
    for position, character in enumerate(text, 1):
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise InputError(
                f"the prompt has a control character ({ascii(character)}) at position {position}; "
                "write it as one line of plain text"
            )
    return text


def check_id(id: str) -> str:
    """The id, or InputError: lower-case letters, digits and single hyphens, with at least one letter."""
    if not isinstance(id, str) or len(id) > MAX_ID or not _ID.fullmatch(id):
        raise InputError(
            f"prompt id {ascii(id)[:80]} is not usable: use lower-case letters, digits and single hyphens, "
            f"at least one letter, {MAX_ID} characters at most, for example 'red-mug'"
        )
    return id


def make_id(text: str, *, suffix: str = "", distinct: bool = False) -> str:
    """A readable, safe id for a text.

    A short hash is added when the words alone would not tell two texts apart: when something was cut
    off or is not ASCII, or when `distinct` asks for it.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if not re.search("[a-z]", words):
        words = f"prompt-{words}".strip("-")  # all digits would be a number in DVC's templates
    room = MAX_ID - len(suffix)
    if distinct or len(words) > room or not text.isascii():
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        words = f"{words[: room - len(digest) - 1].rstrip('-')}-{digest}"
    return check_id(words + suffix)


def parse(name: str, values: object) -> Prompt:
    """A prompt from the content of a prompt.yaml; `name` is the file's, for messages."""
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected 'id:', 'text:', 'seed:' and 'preset:', found {type(values).__name__}")
    for key in _KEYS:
        if key not in values:
            raise InputError(f"{name}: '{key}' is missing")
    seed = values["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"{name}: seed = {seed!r}: it must be a whole number, 0 or more")
    preset = values["preset"]
    if not isinstance(preset, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", preset):
        raise InputError(f"{name}: preset = {preset!r}: it must be the name of a file in presets/")
    try:
        id, text = check_id(values["id"]), check_text(values["text"])
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Prompt(id, text, seed, preset, {k: v for k, v in values.items() if k not in _KEYS})


def read_yaml(path: Path, shown: str) -> object:
    """The content of a YAML file; InputError, naming it as `shown`, when it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{shown} is missing") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not UTF-8 text"
        raise InputError(f"{shown}{line}: not valid YAML: {problem}") from None


def dump(prompt: Prompt) -> str:
    """The text of prompt.yaml; names are quoted, for YAML reads a plain `null` or `1e5` as something else."""
    lines = [
        "# One prompt. Its sections go over params.yaml and the preset; every key: prolific_core/config.py.",
        f"id: {json.dumps(prompt.id)}",
        f"text: {json.dumps(prompt.text, ensure_ascii=False)}",
        f"seed: {prompt.seed}",
        f"preset: {json.dumps(prompt.preset)}",
    ]
    for section in SECTIONS:
        # JSON is YAML on one line; empty sections stay, for DVC.
        lines.append(f"{section}: {json.dumps(prompt.sections.get(section) or {})}")
    if logging := prompt.sections.get("logging"):  # DVC watches it nowhere
        lines.append(f"logging: {json.dumps(logging)}")
    return "\n".join(lines) + "\n"
