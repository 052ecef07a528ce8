"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, flushed to disk and renamed at the end: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, _mode())  # safetensors makes its files for one user only
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Bytes as a file, by `atomically`."""
    with atomically(path) as temporary:
        temporary.write_bytes(data)


def _mode() -> int:
    """Of a new file of this process."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
