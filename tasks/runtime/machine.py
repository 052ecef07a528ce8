"""The process a stage runs in: threads, determinism, quiet libraries, and no life of its own.

No torch at import: the environment must be set before it is loaded.
"""

import os
import sys
from typing import NoReturn

from prolific_core.errors import InputError

# Nothing reports anything anywhere, and nothing waits for a network.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default 247 seconds per call when the server is away
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar for every model that is read from the disk
    "DVC_NO_ANALYTICS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def disable_telemetry() -> None:
    """Usage reports off, for this process and those it starts; what the user set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def threads(count: int) -> None:
    """The thread count of every library, before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(count)  # overrides: the count is part of the result
    # Waiting threads that spin take the core from whoever fractions the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on a GPU


def set_up_torch(count: int, device: str):
    """Threads and deterministic algorithms; the device to compute on."""
    import torch

    torch.set_num_threads(count)
    try:
        torch.set_num_interop_threads(1)
    except RuntimeError:
        pass  # only the first call of a process may set it
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"system.device = cuda: torch {torch.__version__} finds no GPU here; use auto or cpu, or install a CUDA build of torch"
        )
    chosen = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    # On a GPU some operations have no deterministic form: warn, and go on.
    torch.use_deterministic_algorithms(True, warn_only=chosen == "cuda")
    # That also fills every new tensor with NaN before it is written: time, and no other bytes.
    torch.utils.deterministic.fill_uninitialized_memory = False
    keep_freed_memory()
    return torch.device(chosen)


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next step instead of giving them back to the system.

    The same tensors come again at every step, and each new page costs a fault: a tenth to a quarter of
    a render's time. Elsewhere than on glibc nothing happens.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 2**27)  # M_MMAP_THRESHOLD: blocks below come from the heap; larger ones would leave holes in it
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: of which this much may lie free


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it dies.

    Killed, DVC leaves its stage running; a rerun would then have two of them.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGTERM)


def peak_memory_mb() -> float:
    """The most memory this process held at once."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if sys.platform == "darwin" else 2**10), 1)


def exit_now(status: int) -> NoReturn:
    """End this process at once. Python would take its modules apart first: .1 seconds, of every stage."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
