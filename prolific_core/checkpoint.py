"""Atomic checkpoints of nested state: tensors as safetensors, the rest as JSON in its header.

Nothing is pickled. A file is written beside its place, flushed to disk and renamed, so a kill at any
moment leaves the old checkpoint or the new one, never half of one.
"""

import json
from pathlib import Path
from typing import Any

import torch

from prolific_core.errors import ProlificError
from prolific_core.files import atomically

_TENSOR = "__tensor__"


def save(path: Path, state: Any) -> None:
    """Write nested dicts and lists of tensors, numbers, strings, booleans and None."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    skeleton = _strip(state, tensors)
    _separate(tensors)
    with atomically(path) as temporary:  # from where the tensors lie: a copy of everything would double the memory
        save_file(tensors, temporary, metadata={"state": json.dumps(skeleton)})


def load(path: Path) -> Any:
    """Read what `save` wrote. Raises ProlificError for a file that is not a whole checkpoint."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            return _fill(skeleton, file.get_tensor)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ProlificError(f"{path} is not a whole checkpoint ({error}); delete it to start the stage again") from None
    except Exception as error:  # safetensors raises its own SafetensorError(Exception)
        if type(error).__name__ != "SafetensorError":
            raise
        raise ProlificError(f"{path} is not a whole checkpoint ({error}); delete it to start the stage again") from None


def _strip(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The same nesting with every tensor replaced by its name in `tensors`."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        # JSON keys are strings; optimizer states are keyed by numbers.
        return {"__dict__": [[key, _strip(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_strip(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds tensors, numbers, strings and None, not {type(value).__name__}")


def _separate(tensors: dict[str, torch.Tensor]) -> None:
    """Give each its own storage where it shares one, which safetensors refuses."""
    seen = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(storage.data_ptr())


def _fill(value: Any, tensor) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensor(value[_TENSOR])
        return {key: _fill(item, tensor) for key, item in value["__dict__"]}
    if isinstance(value, list):
        return [_fill(item, tensor) for item in value]
    return value
