"""A failure as one clear line and an exit status: 2 for what the user gave, 1 for what went wrong."""

import errno
import os
import sys
import traceback
from collections.abc import Callable

from prolific_core.errors import ProlificError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException) -> str | None:
    """One line for a failure that is understood; None for one that is a mistake in the program."""
    if isinstance(error, ProlificError):
        return str(error)
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    code = error.errno if isinstance(error, OSError) else None
    # Libraries written in Rust or C++ carry the same failures as text.
    if code in _FULL or "No space left on device" in str(error):
        return f"the disk is full{where}; free some space and run the same command again"
    if code in _FORBIDDEN or "Permission denied" in str(error) or "Read-only file system" in str(error):
        return f"no permission to write or read{where or ': ' + str(error)}; change it or use another clone"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out of memory; use a smaller preset or resolution (params.yaml), or close other programs"
    return None


def reported(work: Callable[[], int | None], note: Callable[[str, int], None] | None = None) -> int:
    """Run a command; its exit status, with any failure told on stderr (and to `note`)."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        told = explain(error)
        if told is None:
            # Not the user's doing: whoever mends it needs the place.
            traceback.print_exc()
            told = f"unexpected {type(error).__name__}: {str(error) or 'no message'}"
        told, status = " ".join(told.split()), getattr(error, "exit_status", 1)
        if note:
            note(told, status)
        print(f"prolific: {told}", file=sys.stderr, flush=True)
        return status
