"""Functions that launch Warp kernels on PyTorch tensors.

Warp runs a CPU launch on the calling thread without holding the interpreter lock. `launch_split` therefore
divides the first dimension of a launch into one piece per PyTorch thread. The pieces write to separate memory, so the
result does not depend on the number of threads.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import torch

from prolific_core.errors import InputError


@lru_cache(maxsize=1)
def warp() -> Any:
    """Import Warp without its start-up messages and return the module.

    Kernels are declared with `enable_backward=False`, which halves their compile time. Their backward passes are
    written by hand.
    """
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING  # this option was called `quiet` in older versions
    with _quiet_stderr():  # hide the native code's message that no GPU was found
        wp.init()
    return wp


def gpu_obstacle() -> str:
    """Return the reason why Warp cannot use a GPU and what to install, or an empty string if it can use one."""
    wp = warp()
    if wp.is_cuda_available():
        return ""
    toolkit, driver = wp.get_cuda_toolkit_version(), wp.get_cuda_driver_version()
    if toolkit is None:
        return f"warp-lang {wp.__version__} is built without CUDA; install the wheel of the package index"
    built = f"warp-lang {wp.__version__} is built for CUDA {toolkit[0]}.{toolkit[1]}"
    if driver is None:
        return f"{built} and finds no NVIDIA driver; install one that supports CUDA {toolkit[0]}"
    return (
        f"{built}, but the NVIDIA driver supports only CUDA {driver[0]}.{driver[1]}; update the driver"
        f"{' (R580 or later)' if toolkit[0] == 13 else ''}, or install a wheel of warp-lang for CUDA {driver[0]}"
    )


@cache
def _check_gpu() -> None:
    """Raise an InputError if Warp cannot use the GPU that torch uses."""
    if obstacle := gpu_obstacle():
        raise InputError(f"system.device: torch uses the GPU, but the kernels cannot: {obstacle}")


@contextmanager
def _quiet_stderr():
    """Discard the process's output to standard error, including that of native code."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


def _argument(value: Any) -> Any:
    """Convert a tensor or a pair (tensor, dtype) to a descriptor of a Warp array in the same memory."""
    if not isinstance(value, (torch.Tensor, tuple)):
        return value
    tensor, dtype = value if isinstance(value, tuple) else (value, None)
    return warp().from_torch(tensor.detach(), dtype=dtype, requires_grad=False, return_ctype=True)


def launch(kernel, size: int | tuple[int, ...], values: Sequence[Any], device: torch.device) -> None:
    """Launch a kernel.

    On CUDA the kernel is queued on PyTorch's current stream, so no synchronisation is needed.

    Args:
        kernel: A Warp kernel.
        size: Number of threads in each dimension of the launch.
        values: Arguments of the kernel in order. A tensor must be contiguous, and the caller must keep it alive until
            the launch has finished. A pair (tensor, dtype) is passed as an array of that Warp type, for example a
            tensor (N, 3) with `wp.vec3`. Everything else is passed unchanged.
        device: The device of the tensors.

    Raises:
        InputError: The tensors are on a GPU that Warp cannot use.
    """
    if device.type == "cuda":
        _check_gpu()
    wp, converted = warp(), [_argument(value) for value in values]
    if device.type == "cuda":
        wp.launch(kernel, size, converted, stream=wp.stream_from_torch(torch.cuda.current_stream(device)))
    else:
        wp.launch(kernel, size, converted, device="cpu")


def launch_split(kernel, count: int, inner: tuple[int, ...], values: Sequence[Any], device: torch.device) -> None:
    """Launch a kernel over (count, *inner) and divide the first dimension among the CPU threads.

    Args:
        kernel: A Warp kernel whose first argument is the index at which its piece of the first dimension starts. Pieces
            must not write to the same memory.
        count: Size of the dimension that is divided.
        inner: Sizes of the other dimensions.
        values: The kernel's other arguments; see `launch`.
        device: The device of the tensors.
    """
    if count == 0:
        return
    threads = 1 if device.type == "cuda" else min(torch.get_num_threads(), count)
    if threads == 1:
        launch(kernel, (count, *inner), [0, *values], device)
        return
    # Load the module before the pool starts, because loading is not thread-safe.
    kernel.module.load(warp().get_device("cpu"))
    edges = [count * i // threads for i in range(threads + 1)]
    jobs = [
        _pool(threads).submit(launch, kernel, (stop - start, *inner), [start, *values], device)
        for start, stop in zip(edges, edges[1:])
    ]
    for job in jobs:
        job.result()
