"""Exceptions that end a command with one line on stderr and no traceback."""


class ProlificError(Exception):
    """Failure that is not caused by the user's input, such as a full disk or a diverged run. Exit status 1."""

    exit_status = 1


class InputError(ProlificError, ValueError):
    """Invalid user input. The message names the input and how to correct it. Exit status 2."""

    exit_status = 2
