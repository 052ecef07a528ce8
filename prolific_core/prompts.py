"""Prompts, their ids, and the format of prompt.yaml.

The text of a prompt is never part of a path or a shell command. Files and commands use the id, which consists of
letters, digits and hyphens.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from yaml.reader import Reader

from prolific_core.config import Config
from prolific_core.errors import InputError, quote

MAX_TEXT = 1000  # characters
MAX_ID = 60  # characters
DEFAULT_PRESET = "demo"
# DVC requires all watched sections to be present in the file, even if they are empty.
SECTIONS = tuple(name for name in Config.model_fields if name != "logging")
_KEYS = ("id", "text", "seed", "preset")
_OPTIONAL_KEYS = ("system_name", "forced")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_ID = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Prompt:
    """Prompt that describes one object, with the settings for generating it.

    Attributes:
        id: Name of the prompt's folder in prompts/ and runs/.
        text: Description of the object.
        seed: Seed of all random draws.
        preset: Name of a file in presets/, without its suffix.
        sections: Parameters by section, which override those of the preset and the system.
        forced: Whether the prompt was accepted although the prior does not know it.
        system_name: Name of a file in systems/, without its suffix, or "" for none. The system overrides the preset.
            (`system` is the name of a section, the device and its threads.)
    """

    id: str
    text: str
    seed: int = 0
    preset: str = DEFAULT_PRESET
    sections: dict[str, Any] = field(default_factory=dict)
    forced: bool = False
    system_name: str = ""


def check_text(text: object) -> str:
    """Validate the text of a prompt.

    Args:
        text: The text.

    Returns:
        The text without leading and trailing white space.

    Raises:
        InputError: The text is not a string, is empty or too long, or contains control characters or characters that
            YAML does not allow.
    """
    if not isinstance(text, str):
        raise InputError(f"the prompt text must be a string, got {quote(text)}; put it in quotes")
    text = text.strip()
    if not text:
        raise InputError('the prompt is empty; describe one object, for example "a red mug"')
    if len(text) > MAX_TEXT:
        raise InputError(f"the prompt has {len(text)} characters; at most {MAX_TEXT} are allowed")
    for position, character in enumerate(text, 1):
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise InputError(
                f"the prompt contains a control character ({ascii(character)}) at position {position}; "
                "write it as one line of plain text"
            )
        if Reader.NON_PRINTABLE.match(character):  # prompt.yaml could not be read again
            raise InputError(
                f"the prompt contains {ascii(character)} at position {position}, which is not a character; delete it"
            )
    return text


def check_id(id: object) -> str:
    """Validate the id of a prompt.

    Args:
        id: The id.

    Returns:
        The id.

    Raises:
        InputError: The id is too long, has no letter, or contains anything but lower-case letters, digits and single
            hyphens.
    """
    if not isinstance(id, str) or len(id) > MAX_ID or not _ID.fullmatch(id):
        raise InputError(
            f"prompt id {ascii(id)[:80]} is not usable; it must consist of lower-case letters, digits and single "
            f"hyphens, with at least one letter and at most {MAX_ID} characters, for example 'red-mug'"
        )
    return id


def make_id(text: str, *, suffix: str = "", distinct: bool = False) -> str:
    """Return a readable, safe id for a text.

    A short hash of the text is appended if `distinct` is set, or if the text is truncated or is not ASCII and the id
    might otherwise not be unique.

    Args:
        text: The text of a prompt.
        suffix: Text to append to the id, for example `"-s3"`.
        distinct: Whether to always append the hash.

    Returns:
        An id of at most `MAX_ID` characters.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if not re.search("[a-z]", words):
        words = f"prompt-{words}".strip("-")  # DVC's templates would parse an id that consists of digits as a number
    room = MAX_ID - len(suffix)
    if distinct or len(words) > room or not text.isascii():
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        words = f"{words[: room - len(digest) - 1].rstrip('-')}-{digest}"
    return check_id(words + suffix)


def parse(name: str, values: object) -> Prompt:
    """Validate the content of prompt.yaml, except for its sections.

    Args:
        name: The name of the file, for error messages.
        values: The content of the file.

    Returns:
        The prompt. Its sections are validated by `config_layers.resolve`.

    Raises:
        InputError: A key is missing, or a value is not allowed.
    """
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected 'id:', 'text:', 'seed:' and 'preset:', got {type(values).__name__}")
    for key in _KEYS:
        if key not in values:
            raise InputError(f"{name}: '{key}' is missing")
    seed = values["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"{name}: seed = {quote(seed)}: must be a non-negative integer below 2^63")
    preset = values["preset"]
    if not isinstance(preset, str) or not _FILE_NAME.fullmatch(preset):
        raise InputError(f"{name}: preset = {quote(preset)}: must be the name of a file in presets/")
    system_name = values.get("system_name") or ""
    if not isinstance(system_name, str) or (system_name and not _FILE_NAME.fullmatch(system_name)):
        raise InputError(f"{name}: system_name = {quote(system_name)}: must be the name of a file in systems/")
    forced = values.get("forced", False)
    if not isinstance(forced, bool):
        raise InputError(f"{name}: forced = {quote(forced)}: must be true or false")
    try:
        id, text = check_id(values["id"]), check_text(values["text"])
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    sections = {key: value for key, value in values.items() if key not in (*_KEYS, *_OPTIONAL_KEYS)}
    return Prompt(id, text, seed, preset, sections, forced, system_name)


def dump(prompt: Prompt) -> str:
    """Return the content of prompt.yaml for a prompt.

    Strings are quoted, because YAML reads a plain `null` or `1e5` as another type.

    Args:
        prompt: The prompt.

    Returns:
        The text of the file.
    """
    lines = [
        "# A prompt. Its sections override params.yaml and the preset; prolific_core/config.py lists all keys.",
        f"id: {json.dumps(prompt.id)}",
        f"text: {json.dumps(prompt.text, ensure_ascii=False)}",
        f"seed: {prompt.seed}",
        f"preset: {json.dumps(prompt.preset)}",
    ]
    if prompt.system_name:
        lines.append(f"system_name: {json.dumps(prompt.system_name)} # overrides the preset; see systems/")
    if prompt.forced:
        lines.append("forced: true # the prior does not know this prompt, which was accepted nevertheless")
    for section in SECTIONS:
        # JSON is valid YAML and fits on one line.
        lines.append(f"{section}: {json.dumps(prompt.sections.get(section) or {}, ensure_ascii=False)}")
    if logging := prompt.sections.get("logging"):  # optional, because no DVC stage depends on it
        lines.append(f"logging: {json.dumps(logging, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
