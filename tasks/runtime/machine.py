"""Process settings of a stage: threads, determinism, telemetry and termination.

This module does not import torch at the top level, because torch reads environment variables when it is imported.
"""

import contextlib
import os
import signal
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
    # Renders have a different number of samples in every step; without this, a GPU's memory fragments.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def check_device(device: str) -> None:
    """Raise an InputError if `system.device` is a GPU that this machine does not have."""
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"system.device is {device}, but torch {torch.__version__} has no usable GPU; install a CUDA build of "
            "torch and its driver, or run on the CPU, which is very slow with a large prior: --set system.device=cpu"
        )
    if (index := torch.device(device).index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(
            f"system.device is {device}, but torch sees {count} GPUs, cuda:0 to cuda:{count - 1}, not {index}"
        )


def set_up_torch(count: int, device: str, deterministic: bool = False):
    """Set torch's number of threads and its algorithms, and return the device to compute on.

    Algorithms are deterministic on the CPU, and on a GPU only if `deterministic` is set, because they are slower there.
    """
    import torch

    torch.set_num_threads(count)
    with contextlib.suppress(RuntimeError):  # Torch allows this call only once per process.
        torch.set_num_interop_threads(1)
    check_device(device)
    chosen = torch.device(device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # for what is created on "cuda", such as the kernels' streams
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not deterministic  # the choice of the fastest algorithm may differ
    # Some operations have no deterministic implementation on a GPU, so torch only warns about them there.
    torch.use_deterministic_algorithms(deterministic or chosen.type == "cpu", warn_only=chosen.type == "cuda")
    # Deterministic mode also fills uninitialised tensors with NaN, which takes time and does not change results.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (a property of the module)
    keep_freed_memory()
    return chosen


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


def accept_interrupts() -> None:
    """Make SIGINT interrupt this process and its children, which ignore it if a script started them in the background.

    A flow interrupts its stages by SIGINT. They have a process group of their own, so Ctrl-C in a terminal does not.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


def peak_gpu_memory_mb() -> float | None:
    """Return the peak of the GPU memory that torch has reserved, in megabytes, or None if no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return round(torch.cuda.max_memory_reserved() / 2**20, 1)


#: Whether a command ends without Python's exit handlers, which stop servers and send what is left.
skip_exit_handlers = False


def exit_now(status: int) -> NoReturn:
    """Exit without Python's clean-up of modules, because it would add 0.1 seconds to every stage."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
