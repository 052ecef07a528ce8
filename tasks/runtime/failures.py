"""Report failures as a one-line message and an exit status.

The exit status is 2 for invalid input and 1 for any other failure.
"""

import errno
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable

from prolific_core.errors import ProlificError, mask

STOPPED = "prolific: stopped; run the same command to go on"

_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch raises a RuntimeError: the first message comes from a GPU, the second from a CPU.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "std::bad_alloc")
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException) -> str | None:
    """Return a one-line message for an expected failure, or None if the exception is a bug."""
    if isinstance(error, ProlificError):
        return str(error)
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    code = error.errno if isinstance(error, OSError) else None
    # Libraries written in Rust or C++ raise other exception types for these failures, so check the message as well.
    if code in _FULL or "No space left on device" in str(error):
        return f"the disk is full{where}; free some space and run the same command again"
    if code in _FORBIDDEN or "Permission denied" in str(error) or "Read-only file system" in str(error):
        return (
            f"no permission to read or write{where or ': ' + str(error)}; change the permissions or use another clone"
        )
    said = str(error).lower()
    if isinstance(error, MemoryError) or code == errno.ENOMEM or any(words in said for words in _OUT_OF_MEMORY):
        return "out of memory; use a smaller preset or resolution (params.yaml), or close other programs"
    return None


def printable(text: str) -> str:
    """Return a text with its control characters escaped, so that a file cannot send commands to the terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def complain(message: str) -> None:
    """Print a message to stderr as one line, which is broken between words if stderr is a terminal."""
    line = f"prolific: {message}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr, flush=True)


def reported(work: Callable[[], int | None], note: Callable[[str, int], None] | None = None) -> int:
    """Run `work` and return its exit status.

    The message of a failure is printed to stderr and passed to `note`.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr, flush=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = explain(error)
        if message is None:
            traceback.print_exc()  # A bug cannot be fixed without its traceback.
            message = f"unexpected {type(error).__name__}: {str(error) or 'no message'}"
        message, status = printable(mask(" ".join(message.split()))), getattr(error, "exit_status", 1)
        if note:
            note(message, status)
        complain(message)
        return status
