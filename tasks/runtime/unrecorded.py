"""Copies of finished outputs that DVC has not recorded yet.

When a stage ends, DVC needs up to a second to record its output. If it is killed meanwhile, it deletes the output and
runs the stage again from the beginning. A copy, whose files are hard links, lets the stage end at once instead.
"""

import os
import shutil
from pathlib import Path


def keep(output: Path, folder: Path, key: str) -> None:
    """Keep a copy of a finished output, and delete those of earlier runs.

    Args:
        output: The finished output.
        folder: Folder of the copies.
        key: Key of the job.
    """
    shutil.rmtree(folder, ignore_errors=True)
    partial = folder / f".{key}"
    link_tree(output, partial)
    partial.rename(folder / key)
    os.utime(folder / key)


def find(folder: Path, key: str, lock_file: Path) -> Path | None:
    """Find a copy that DVC has not recorded.

    Args:
        folder: Folder of the copies.
        key: Key of the job.
        lock_file: DVC's file with the recorded outputs, which is newer than the copy of a recorded output.

    Returns:
        The copy, or None if there is none with this key or if DVC has recorded it.
    """
    copy = folder / key
    if not copy.is_dir():
        return None
    if lock_file.is_file() and lock_file.stat().st_mtime_ns >= copy.stat().st_mtime_ns:
        return None
    return copy


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder with hard links to its files, or with copies where the file system has no hard links.

    Args:
        source: Folder to copy.
        target: Folder to create; it may exist.
    """
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
