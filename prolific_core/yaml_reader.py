"""Reader of YAML files that a user has written.

The files are YAML 1.2, as DVC reads them: `1:30` and `yes` are strings, and `1e-3` is a number. A key may occur only
once.
"""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from prolific_core.errors import InputError, shorten

# Limits that no honest file reaches. Aliases let a file of a few lines stand for more values than memory can hold.
MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 30


def read_yaml(path: Path, shown: str) -> Any:
    """Read a YAML file.

    Args:
        path: The file to read.
        shown: The name of the file in error messages.

    Returns:
        The content of the file.

    Raises:
        InputError: The file is missing, is not a regular file or is not valid YAML.
    """
    if not path.exists():
        raise InputError(f"{shown} is missing")
    if not path.is_file():  # to read a pipe would block
        raise InputError(f"{shown} is not a file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{shown}: not valid YAML: not UTF-8 text") from None
    # A copy, which the caller may change, takes a 160th of the time of parsing params.yaml, which each prompt reads.
    return copy.deepcopy(_parse_once(text, shown))


def parse_yaml(text: str, shown: str) -> Any:
    """Parse YAML.

    Args:
        text: The YAML.
        shown: The name of its source in error messages.

    Returns:
        Nested dictionaries and lists of strings, numbers, booleans, dates and None.

    Raises:
        InputError: The text is not valid YAML, or is too large or too deeply nested.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{shown} has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = shorten((error.problem or "syntax error").splitlines()[0])
        raise InputError(f"{shown}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise InputError(f"{shown} is nested more deeply than {MAX_DEPTH} levels") from None
    # Constructors raise other errors too, for example ValueError for the date 2001-99-99.
    except (YAMLError, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"{shown}: not valid YAML: {shorten(str(error))}") from None
    _check_size(value, shown)
    return value


@lru_cache(maxsize=4096)
def _parse_once(text: str, shown: str) -> Any:
    return parse_yaml(text, shown)


def _check_size(value: Any, shown: str) -> None:
    """Raise an InputError if a value has too many levels or, with repeated ones counted again, too many values."""
    left, count = [(value, 1)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise InputError(f"{shown} is nested more deeply than {MAX_DEPTH} levels")
        if count > MAX_VALUES:
            raise InputError(f"{shown} has more than {MAX_VALUES} values")
        if isinstance(value, dict):
            left += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple, set)):
            left += [(part, depth + 1) for part in value]
