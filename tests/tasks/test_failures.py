"""A failure is one printable line without a password."""

import numpy
import pytest
import torch

from prolific_core.errors import InputError, ProlificError, mask, quote
from tasks.runtime.failures import complain, reported


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (InputError("no file 'a\x1b[31m\u202e'"), r"prolific: no file 'a\x1b[31m\u202e'", 2),
        (ProlificError("none at https://me:secret@host/x\nfor now"), "prolific: none at https://***@host/x for now", 1),
        (
            OSError(28, "No space left on device", "x.bin"),
            "prolific: the disk is full (x.bin); free some space and run the same command again",
            1,
        ),
    ],
)
def test_a_failure_is_one_printable_line(capsys, error, line, status):
    def work():
        raise error

    noted = []
    assert reported(work, lambda *values: noted.append(values)) == status
    assert capsys.readouterr().err == line + "\n" and noted == [(line.removeprefix("prolific: "), status)]


def test_a_failed_allocation_is_one_line(capsys):
    assert reported(lambda: torch.empty(10**14).numel()) == 1
    assert reported(lambda: numpy.empty(10**14).size) == 1
    assert reported(lambda: fail(OSError(12, "Cannot allocate memory"))) == 1
    line = "prolific: out of memory; use a smaller preset or resolution (params.yaml), or close other programs\n"
    assert capsys.readouterr().err == 3 * line


def fail(error: Exception) -> int:
    raise error


def test_addresses_without_a_password_stay():
    text = "http://127.0.0.1:4200/api and me@host and sqlite:///a@b/c.db"
    assert mask(text) == text and mask("ftp://token@host") == "ftp://***@host"


def test_quoted_values_are_short():
    assert quote("a\n") == "'a\\n'" and len(quote("x" * 10**6)) == 200 and quote([1] * 10**5).endswith("…]")


def test_a_long_message_is_one_line_and_breaks_between_words_in_a_terminal(capsys, monkeypatch):
    path = "/a/" + 90 * "x"
    message = (
        f"the prior does not know 'crimson' and 'cup'; the nearest prompt that it knows is 'a red mug'; see {path}"
    )
    complain(message)
    assert capsys.readouterr().err == f"prolific: {message}\n"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    complain(message)
    lines = capsys.readouterr().err.splitlines()
    assert " ".join(lines) == f"prolific: {message}" and lines[-1] == path
    assert all(60 < len(line) <= 80 for line in lines[:-2])
