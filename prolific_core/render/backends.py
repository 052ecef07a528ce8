"""Which implementation serves each kernel, and why.

A kernel is a hot loop with several implementations of one interface:

- "warp", native: the same source on CPU and GPU, needs no compiler;
- "torch", the reference: slow and obvious, what tests hold the others to;
- one optional CUDA extension each, which `auto` prefers where it is
  installed and the tensors are on a GPU; nerfacc only by name, since its
  Python half installs everywhere and compiles the other half on first use.

Nothing is imported to find out: presence is asked of the import system, so
`--help` and `prolific doctor` stay quick and a broken extension does no harm
until it is used.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Union

import torch

from prolific_core.errors import InputError

NATIVE, REFERENCE = "warp", "torch"

#: Optional extension of each kernel: it needs CUDA and a build of its own.
EXTENSIONS = {
    "hash_encoding": "tinycudann",
    "marching": "nerfacc",
    "compositing": "nerfacc",
    "raster": "nvdiffrast",
}

#: Kernels whose extension is wired in here. Marching has no adapter yet:
#: nerfacc places its steps differently.
ADAPTED = {"hash_encoding", "compositing", "raster"}

#: Extensions that `auto` and "cuda" never pick.
BY_NAME_ONLY = {"nerfacc"}

Device = Union[str, torch.device]


class BackendMissing(InputError):
    """A backend was asked for by name that this machine or device cannot run."""


@dataclass(frozen=True)
class Choice:
    """name: the backend to use; reason: one line a person can read."""

    name: str
    reason: str


@cache
def importable(module: str) -> bool:
    """Whether `import module` would find something; imports nothing."""
    return importlib.util.find_spec(module) is not None


def candidates(kernel: str) -> list[str]:
    """Names of the backends that `kernel` can have, best first."""
    if kernel not in EXTENSIONS:
        raise ValueError(f"unknown kernel {kernel!r}: one of {', '.join(sorted(EXTENSIONS))}")
    extension = [EXTENSIONS[kernel]] if kernel in ADAPTED else []
    return [*extension, NATIVE, REFERENCE]


def obstacle(backend: str, device: Device) -> str:
    """Why `backend` cannot run on `device`; empty if it can."""
    if backend == REFERENCE:
        return ""
    if not importable(backend):
        return f"{backend} is not installed"
    if backend != NATIVE and torch.device(device).type != "cuda":
        return f"{backend} needs a CUDA device"
    return ""


def available(kernel: str, device: Device = "cpu") -> list[str]:
    """Backends of `kernel` that run on `device` here, best first."""
    return [name for name in candidates(kernel) if not obstacle(name, device)]


def choose(kernel: str, requested: str = "auto", device: Device = "cpu") -> Choice:
    """The backend for `kernel` on `device`.

    requested: "auto", a name from `candidates(kernel)`, or "cuda" for the
        kernel's extension (native code where no adapter for one exists).
    Raises BackendMissing, which names what is available instead.
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
        return Choice(requested, "asked for by name")
    why = obstacle(requested, device) if requested in names else "no such backend"
    raise BackendMissing(
        f"backend {requested!r} of {kernel} cannot be used on {torch.device(device).type}: "
        f"{why}; available here: auto, {', '.join(usable)}"
    )


def report(device: Device = "cpu") -> dict[str, Choice]:
    """The automatic choice for every kernel (what `prolific doctor` prints)."""
    return {kernel: choose(kernel, "auto", device) for kernel in EXTENSIONS}
