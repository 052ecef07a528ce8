"""The two ways a command ends badly, each with one clear line and no traceback."""


class ProlificError(Exception):
    """Something failed that the user did not get wrong (full disk, diverged run). Exit status 1."""

    exit_status = 1


class InputError(ProlificError, ValueError):
    """The user gave something unusable; the message names it and the way out. Exit status 2."""

    exit_status = 2
