"""Exceptions that a command reports as one line on stderr, without a traceback."""

import re

LONGEST = 200  # characters of a quoted value


def quote(value: object) -> str:
    """Return a value as Python writes it, for an error message.

    Args:
        value: Any value, such as one from a file.

    Returns:
        At most `LONGEST` characters in one line. Control characters are escaped.
    """
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}…{text[-1]}"


def shorten(text: str) -> str:
    """Return a text from a file or a library for an error message, as `quote` does but without quotation marks.

    Args:
        text: Any text.

    Returns:
        One short line.
    """
    return quote(text)[1:-1]


def mask(text: str) -> str:
    """Hide the user name and the password in all addresses of a text.

    Args:
        text: Any text, such as a message with an address.

    Returns:
        The text, with `***` in their place.
    """
    return re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)


class ProlificError(Exception):
    """Failure that is not caused by the user's input, such as a full disk or a diverged run. The exit status is 1.

    Attributes:
        exit_status: Exit status of a command that fails with this error.
        temporary: Whether the same call may succeed when it is repeated.
    """

    exit_status = 1
    temporary = False


class InputError(ProlificError, ValueError):
    """Invalid user input. The message names the input and a correction. The exit status is 2."""

    exit_status = 2
