"""SHA-256 digests of files and folders."""

import hashlib
from pathlib import Path

from prolific_core.files import read_json, write_json


def digest(path: Path) -> str:
    """Return the SHA-256 digest of a file or folder.

    The digest of a folder covers the names and contents of its files. If the path does not exist, the digest of an
    empty file is returned.
    """
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(path).as_posix()} {digest(file)}\n".encode())
    elif path.is_file():
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


class Digests:
    """Digests of folders that are too large to be read at every start, such as models.

    A file is read again only if its size or its modification time has changed.

    Args:
        path: JSON file in which the digests are kept.
    """

    def __init__(self, path: Path):
        self._path, self._known = path, read_json(path)

    def of(self, folder: Path) -> str:
        """Return the digest of the names and contents of all files in a folder, or of a single file."""
        total, before = hashlib.sha256(), dict(self._known)
        for file in sorted(path for path in (folder, *folder.rglob("*")) if path.is_file()):
            total.update(f"{file.relative_to(folder).as_posix()} {self._file(file)}\n".encode())
        if self._known != before:
            write_json(self._path, self._known)
        return total.hexdigest()

    def _file(self, file: Path) -> str:
        status = file.stat()
        stamp, known = [status.st_size, status.st_mtime_ns], self._known.get(str(file))
        if not isinstance(known, list) or known[:2] != stamp:
            known = [*stamp, digest(file)]
            self._known[str(file)] = known
        return str(known[-1])
