"""Checkpoints of nested state as safetensors files.

Values other than tensors are stored as JSON in the header of the file, together with a digest of the file. Files
are written atomically and nothing is pickled. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prolific_core.errors import ProlificError
from prolific_core.files import atomically

if TYPE_CHECKING:
    from torch import Tensor

_TENSOR = "__tensor__"
_MARK, _UNSEALED = b'"digest":"', "0" * 64  # quotes inside the state are escaped, so the mark is unique


def save(path: Path, state: Any) -> None:
    """Write nested state to a file atomically.

    Args:
        path: The file to write.
        state: Nested dictionaries, lists and tuples of tensors, numbers, strings, booleans and None. Tuples are
            read back as lists.

    Raises:
        TypeError: `state` contains a value of an unsupported type.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    skeleton = _strip(state, tensors)
    _separate(tensors)
    with atomically(path) as temporary:  # `save_file`, unlike `save`, does not copy the tensors first
        save_file(tensors, temporary, metadata={"state": json.dumps(skeleton), "digest": _UNSEALED})
        digest, position = _digest(temporary)
        with open(temporary, "r+b") as file:
            file.seek(position)
            file.write(digest.encode())


def load(path: Path) -> Any:
    """Read a state written by `save`.

    Args:
        path: The file to read.

    Returns:
        The nested state, with tensors on the CPU.

    Raises:
        ProlificError: The file is missing, damaged or not a checkpoint.
    """
    from safetensors import safe_open

    if not is_intact(path):
        raise ProlificError(f"{path} is not an intact checkpoint; delete it to restart the stage")
    with safe_open(path, framework="pt") as file:
        return _fill(json.loads(file.metadata()["state"]), file.get_tensor)


def is_intact(path: Path) -> bool:
    """Return whether a file is a checkpoint with the digest that it was saved with.

    Args:
        path: The file to read.

    Returns:
        False if the file is missing, truncated, modified or of another kind.
    """
    try:
        digest, position = _digest(path)
        with open(path, "rb") as file:
            file.seek(position)
            return file.read(len(digest)) == digest.encode()
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> tuple[str, int]:
    """Return the digest of a file, in which its own digest is taken as zeros, and the position of the latter.

    Raises a ValueError if the file has no digest.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), path.stat().st_size))
        position = head.index(_MARK) + len(_MARK)
        total = hashlib.sha256(head[:position] + _UNSEALED.encode() + head[position + len(_UNSEALED) :])
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest(), position


def _strip(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Replace each tensor in a nested value with its name, and store the tensor in `tensors`."""
    from torch import Tensor

    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        # Dictionaries become lists of pairs, because JSON keys are strings but optimizer states have integer keys.
        return {"__dict__": [[key, _strip(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_strip(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"values in a checkpoint must be tensors, numbers, strings or None, got {type(value).__name__}")


def _separate(tensors: dict[str, Tensor]) -> None:
    """Clone tensors that share storage with another tensor, because safetensors does not accept them."""
    seen = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(storage.data_ptr())


def _fill(value: Any, get_tensor: Callable[[str], Tensor]) -> Any:
    """Restore a nested value from the result of `_strip`."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return get_tensor(value[_TENSOR])
        return {key: _fill(item, get_tensor) for key, item in value["__dict__"]}
    if isinstance(value, list):
        return [_fill(item, get_tensor) for item in value]
    return value
