"""Exceptions that a command reports as one line on stderr, without a traceback."""


class ProlificError(Exception):
    """Failure that is not caused by the user's input, such as a full disk or a diverged run. The exit status is 1."""

    exit_status = 1


class InputError(ProlificError, ValueError):
    """Invalid user input. The message names the input and a correction. The exit status is 2."""

    exit_status = 2
