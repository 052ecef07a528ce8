"""Launching warp kernels on torch tensors.

Warp runs a CPU launch on the calling thread and releases the interpreter lock
meanwhile. `launch_split` therefore cuts the last-named range of a launch into
one piece per torch thread. The pieces write to separate memory, so the result
does not depend on the number of threads.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import torch


@lru_cache(maxsize=1)
def warp():
    """The warp module, imported once, late and quietly.

    Backward code is written by hand (see the formulas beside the kernels):
    kernels say `enable_backward=False`, which halves their compile time.
    """
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING  # its `quiet` of older versions
    with _quiet_stderr():  # native code there announces that there is no GPU
        wp.init()
    return wp


@contextmanager
def _quiet_stderr():
    """Send the process's standard error nowhere, native code's included."""
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


def arguments(values: Sequence[Any]) -> list[Any]:
    """Torch tensors as warp array descriptors that share their memory.

    A pair (tensor, dtype) is read as an array of that warp type, such as
    (tensor of shape (N, 3), wp.vec3). Tensors must be contiguous; whoever
    launches keeps them alive.
    """
    return [_descriptor(v) if isinstance(v, (torch.Tensor, tuple)) else v for v in values]


def _descriptor(value):
    tensor, dtype = value if isinstance(value, tuple) else (value, None)
    return warp().from_torch(tensor.detach(), dtype=dtype, requires_grad=False, return_ctype=True)


def launch(kernel, size, values: Sequence[Any], device: torch.device) -> None:
    """Run `kernel` over `size` (int or tuple) with `values`, in order.

    On CUDA it goes to torch's current stream, so no synchronisation is needed.
    """
    wp = warp()
    converted = arguments(values)
    if device.type == "cuda":
        stream = wp.stream_from_torch(torch.cuda.current_stream(device))
        wp.launch(kernel, size, converted, stream=stream)
    else:
        wp.launch(kernel, size, converted, device="cpu")


def launch_split(kernel, count: int, inner: tuple, values: Sequence[Any], device) -> None:
    """Run `kernel` over (count, *inner), the first range cut among threads.

    The kernel's first argument is where its piece starts in `count`; `values`
    are the others. Pieces must not write to the same memory.
    """
    if count == 0:
        return
    threads = 1 if device.type == "cuda" else min(torch.get_num_threads(), count)
    if threads == 1:
        launch(kernel, (count, *inner), [0, *values], device)
        return
    # Loading a module is not thread-safe: have it loaded before the pool runs.
    kernel.module.load(warp().get_device("cpu"))
    edges = [count * i // threads for i in range(threads + 1)]
    jobs = [
        _pool(threads).submit(launch, kernel, (stop - start, *inner), [start, *values], device)
        for start, stop in zip(edges, edges[1:])
    ]
    for job in jobs:
        job.result()
