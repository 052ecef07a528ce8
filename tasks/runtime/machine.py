"""Settings of the process that a stage runs in: threads, determinism, telemetry and its end with its parent.

This module does not import torch, whose environment variables must be set before it is loaded.
"""

import contextlib
import os
import sys
from typing import NoReturn

from prolific_core.errors import InputError

# No library sends usage reports, and none waits for a network.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits 247 seconds per call for a server that is down
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # otherwise a bar for every model that is read from disk
    "DVC_NO_ANALYTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def disable_telemetry() -> None:
    """Turn off usage reports for this process and its children; variables that the user has set stay."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def threads(count: int) -> None:
    """Set the number of threads of every library; call it before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(count)  # overrides the user's value, since results depend on the number
    # Waiting threads that spin would take the core from other processes on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on a GPU


def set_up_torch(count: int, device: str):
    """Set threads and deterministic algorithms in torch and return the device to compute on."""
    import torch

    torch.set_num_threads(count)
    with contextlib.suppress(RuntimeError):  # only the first call in a process may set it
        torch.set_num_interop_threads(1)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"system.device = cuda: torch {torch.__version__} finds no GPU here; "
            "use auto or cpu, or install a CUDA build of torch"
        )
    chosen = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    # On a GPU some operations have no deterministic implementation; torch then only warns.
    torch.use_deterministic_algorithms(True, warn_only=chosen == "cuda")
    # The deterministic mode also fills every new tensor with NaN, which takes time and changes no result.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (a property of the module)
    keep_freed_memory()
    return torch.device(chosen)


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for the next step instead of returning them to the system.

    Every step allocates tensors of the same sizes, and the page faults of new memory take a tenth to a quarter of the
    time of a render. With other C libraries this function does nothing.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 2**27)  # M_MMAP_THRESHOLD: larger blocks would fragment the heap
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the free memory that the heap may keep


def die_with_parent() -> None:
    """Make Linux end this process when its parent dies.

    A killed DVC leaves its stage running, and the next run would then start a second one.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # the parent died before the call
        os.kill(os.getpid(), signal.SIGTERM)


def peak_memory_mb() -> float:
    """Return the peak memory of this process, in megabytes."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if sys.platform == "darwin" else 2**10), 1)


def exit_now(status: int) -> NoReturn:
    """End this process without Python's clean-up of modules, which takes 0.1 seconds of every stage."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
