"""Process settings of a stage: threads, determinism, telemetry and termination.

This module does not import torch at the top level, because torch reads environment variables when it is imported.
"""

import contextlib
import os
import sys
from typing import NoReturn

from prolific_core.errors import InputError

# Environment variables that disable usage reports and shorten waits for the network.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # By default, a call to an unreachable server takes 247 seconds.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # By default, loading a model from disk shows a progress bar.
    "DVC_NO_ANALYTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def disable_telemetry() -> None:
    """Disable usage reports for this process and its children. Variables that the user has set are kept."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def threads(count: int) -> None:
    """Set the number of threads of the numerical libraries. Call this before importing any of them."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(count)  # Override the user's value, because results depend on it.
    # Make waiting threads sleep instead of spin, so that other processes can use their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on a GPU


def set_up_torch(count: int, device: str):
    """Set torch's number of threads, enable deterministic algorithms and return the device to compute on."""
    import torch

    torch.set_num_threads(count)
    with contextlib.suppress(RuntimeError):  # Torch allows this call only once per process.
        torch.set_num_interop_threads(1)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"system.device is cuda, but torch {torch.__version__} has no usable GPU; "
            "set it to auto or cpu, or install a CUDA build of torch"
        )
    chosen = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    # Some operations have no deterministic implementation on a GPU, so torch only warns about them there.
    torch.use_deterministic_algorithms(True, warn_only=chosen == "cuda")
    # Deterministic mode also fills uninitialised tensors with NaN, which takes time and does not change results.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (a property of the module)
    keep_freed_memory()
    return torch.device(chosen)


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for the next step instead of returning them to the operating system.

    Every step allocates tensors of the same sizes, and page faults on new memory would take 10% to 25% of the render
    time. With other C libraries, this function does nothing.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 2**27)  # M_MMAP_THRESHOLD: Larger blocks would fragment the heap.
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: The heap may keep up to 2 GiB of free memory.


def die_with_parent() -> None:
    """Make Linux terminate this process when its parent dies. On other systems, this function does nothing.

    Without this call, a stage would keep running after DVC is killed, and the next run would start the stage again.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # The parent died before the call.
        os.kill(os.getpid(), signal.SIGTERM)


def peak_memory_mb() -> float:
    """Return the peak memory of this process in megabytes."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if sys.platform == "darwin" else 2**10), 1)


def exit_now(status: int) -> NoReturn:
    """Exit without Python's clean-up of modules, because it would add 0.1 seconds to every stage."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
