"""Atomic file writes, which leave the old content of a file unchanged if interrupted, and a tolerant reader."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Provide a temporary file that replaces `path` when the block ends without an exception.

    The temporary file is in the same folder and has a unique name, so that concurrent writers never share one. It is
    flushed to disk before it is renamed, and is deleted if the block raises. The parent folder is created if needed.

    Args:
        path: The file to write.

    Yields:
        The path of the (empty) temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, _default_mode())  # mkstemp and safetensors create files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically.

    Args:
        path: The file to write.
        data: The new content of the file.
    """
    with atomically(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any, *, indent: int | None = 2, sort_keys: bool = True) -> None:
    """Write a value to a JSON file atomically.

    Args:
        path: The file to write.
        value: A value that `json.dumps` accepts.
        indent: Number of spaces per level, or None for a single line.
        sort_keys: Whether the keys of objects are sorted.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that another process, or another machine, has written.

    Args:
        path: The file to read.

    Returns:
        The object, or an empty one if the file is missing, is no regular file, or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _default_mode() -> int:
    """Return the permissions that this process gives to new files."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
