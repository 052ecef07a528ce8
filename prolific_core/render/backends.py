"""Choice of the implementation that runs each kernel.

A kernel is a hot loop with several implementations of one interface:

- "warp", the native backend, has the same source for CPU and GPU and needs no compiler on the user's machine.
- "torch", the reference in plain PyTorch, is slow but easy to read. The tests compare the other backends with it.
- An optional CUDA extension per kernel is preferred by `auto` if it is installed and the tensors are on a GPU. nerfacc
  must be requested by name, because it can be installed without CUDA and compiles its kernels on first use.

Availability is determined without importing the backends. `--help` and `prolific doctor` therefore stay fast, and a
broken extension causes no error until it is used.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache

import torch

from prolific_core.errors import InputError

NATIVE, REFERENCE = "warp", "torch"

#: Optional CUDA extension of each kernel.
EXTENSIONS = {
    "hash_encoding": "tinycudann",
    "marching": "nerfacc",
    "compositing": "nerfacc",
    "raster": "nvdiffrast",
}

#: Kernels with an adapter for their extension. Marching has no adapter, because nerfacc places steps differently.
ADAPTED = {"hash_encoding", "compositing", "raster"}

#: Extensions that are used only when requested by name, never by "auto" or "cuda".
BY_NAME_ONLY = {"nerfacc"}

Device = str | torch.device


class BackendMissing(InputError):
    """Error raised when a requested backend cannot run on this machine or device."""


@dataclass(frozen=True)
class Choice:
    """Backend chosen for a kernel.

    Attributes:
        name: The name of the backend.
        reason: One line that explains the choice to the user.
    """

    name: str
    reason: str


@cache
def importable(module: str) -> bool:
    """Return whether a module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def candidates(kernel: str) -> list[str]:
    """Return the names of the backends that implement a kernel, best first.

    Args:
        kernel: A key of `EXTENSIONS`.

    Returns:
        Backend names, including those that are not installed.

    Raises:
        ValueError: The kernel is unknown.
    """
    if kernel not in EXTENSIONS:
        raise ValueError(f"unknown kernel {kernel!r}; must be one of {', '.join(sorted(EXTENSIONS))}")
    extension = [EXTENSIONS[kernel]] if kernel in ADAPTED else []
    return [*extension, NATIVE, REFERENCE]


def obstacle(backend: str, device: Device) -> str:
    """Return the reason why a backend cannot run on a device, or an empty string if it can."""
    if backend == REFERENCE:
        return ""
    if not importable(backend):
        return f"{backend} is not installed"
    if backend != NATIVE and torch.device(device).type != "cuda":
        return f"{backend} needs a CUDA device"
    return ""


def available(kernel: str, device: Device = "cpu") -> list[str]:
    """Return the backends of a kernel that can run on a device, best first."""
    return [name for name in candidates(kernel) if not obstacle(name, device)]


def choose(kernel: str, requested: str = "auto", device: Device = "cpu") -> Choice:
    """Choose the backend of a kernel on a device.

    Example:
        >>> choose("compositing", "torch").name
        'torch'

    Args:
        kernel: A key of `EXTENSIONS`.
        requested: "auto", a name from `candidates(kernel)`, or "cuda". The latter selects the kernel's extension, or
            the native backend if the extension has no adapter.
        device: The device of the tensors.

    Returns:
        The backend and the reason for choosing it.

    Raises:
        BackendMissing: The requested backend cannot run. The message lists the available ones.
    """
    names = candidates(kernel)
    usable = available(kernel, device)
    automatic = [name for name in names if name not in BY_NAME_ONLY]
    if requested == "cuda":
        requested = automatic[0]
    if requested == "auto":
        skipped = [obstacle(name, device) for name in automatic if name not in usable]
        note = f" ({'; '.join(skipped)})" if skipped else ""
        best = next(name for name in automatic if name in usable)
        return Choice(best, f"best available on {torch.device(device).type}{note}")
    if requested in usable:
        return Choice(requested, "requested by name")
    why = obstacle(requested, device) if requested in names else "no such backend"
    raise BackendMissing(
        f"backend {requested!r} of {kernel} cannot be used on {torch.device(device).type}: "
        f"{why}; available here: auto, {', '.join(usable)}"
    )
