"""Tensors that pretend to be on cuda:0 while their data stay in the CPU's memory.

They show mistakes with devices on a machine without a GPU, and count how often a GPU would make the host wait:

    with PretendCuda() as cuda:
        x = torch.zeros(3, device="cuda")
        x + torch.zeros(3)  # raises DeviceMixed, as CUDA would raise RuntimeError
        x.sum().item()  # counted in cuda.waits with the operation, the file and the line

What CUDA rejects raises DeviceMixed: an operation on tensors of both devices (except scalars of the CPU), a CPU
generator for a tensor on the GPU or the reverse, an index on the GPU into a tensor of the CPU, and `numpy()`. The
values are real, so that `nonzero` and the Warp kernels work.

In a backward pass, autograd creates tensors without passing through this mode; they count as being on either device.
The mode shows neither the speed nor the arithmetic of a GPU.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

T = torch.Tensor
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ROOT = str(Path(__file__).parents[2]) + "/"

#: Functions whose results the host needs, so that it waits for the GPU.
WAITING = {
    *(T.item, T.tolist, T.numpy, T.cpu, T.__bool__, T.__int__, T.__float__, T.__index__, T.__contains__),
    *(T.nonzero, T.unique, T.masked_select, T.bincount, T.equal, T.allclose, T.is_nonzero),
    *(torch.nonzero, torch.unique, torch.masked_select, torch.bincount, torch.equal, torch.allclose),
}
BACKWARD = {T.backward, torch.autograd.backward, torch.autograd.grad}
TO_HOST = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__", "equal"}
#: Functions that accept tensors of both devices.
MIXING = {T.copy_, T.type_as, T.to, T.data.__set__, T.set_, T.expand_as, T.view_as, T.reshape_as, T.__setitem__}
#: Functions that look at a tensor without computing anything.
LOOKING = {
    *("__get__", "__set__", "__repr__", "__hash__", "__len__", "dim", "size", "stride", "numel", "nelement", "type"),
    *("is_contiguous", "is_floating_point", "is_complex", "element_size", "data_ptr", "untyped_storage"),
    *("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "has_torch_function"),
    "_has_compatible_shallow_copy_type",
}


class DeviceMixed(RuntimeError):
    """Error raised where CUDA would raise an error about devices."""


class PretendCuda(TorchFunctionMode):
    """Mode in which `device="cuda"` and `.to("cuda")` mark tensors, and what is computed from marked tensors is marked.

    Attributes:
        waits: Number of times that the host would wait for the GPU, by operation and place.
        uploads: Number of copies from the CPU to the GPU, by kind and place; those without `non_blocking` also wait.
    """

    def __init__(self):
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.uploads: Counter[tuple[str, str]] = Counter()
        self._marks = WeakTensorKeyDictionary()
        self._generators: list[torch.Generator] = []
        self._backward = self._depth = 0
        self._off = False

    def __enter__(self):
        if not self._depth:
            self._apply = torch.autograd.Function.__dict__["apply"]
            original, mode = self._apply.__func__, self

            def apply(cls, *args, **kwargs):  # the results of a custom function are new objects
                result = original(cls, *args, **kwargs)
                if not mode._off and any(mode.mark_of(one) for one in args if isinstance(one, T)):
                    mode.mark(result, True)
                return result

            torch.autograd.Function.apply = classmethod(apply)
            self._checks = mock.patch.dict(checkpoint._allowed_determinism_checks_to_fns, default=self._true_metadata)
            self._checks.start()
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *details):
        self._depth -= 1
        if not self._depth:
            torch.autograd.Function.apply = self._apply
            self._checks.stop()
        return super().__exit__(*details)

    def _true_metadata(self, tensor: T) -> dict:
        """Describe a saved tensor for a checkpoint, which compares its device with that of the recomputed one.

        A tensor is saved while an operation runs, when no mode is on, and read when this one is.
        """
        with self.off():
            return checkpoint._default_meta_extractor(tensor)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Compute on the CPU as if there were no mode."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    def generator(self, generator: torch.Generator, device: torch.device) -> torch.Generator:
        """Replace `seeding.on_device`, because a build of torch without CUDA makes no generator on a GPU."""
        if device.type == "cpu":
            return generator
        made = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        self._generators.append(made)  # kept alive, because identity tells them apart
        return made

    def mark_of(self, tensor: T) -> bool | None:
        """Return whether a tensor is on the GPU, or None if that is unknown because autograd has made it."""
        found = self._marks.get(tensor)
        return found if found is not None else (None if self._backward else False)

    def mark(self, result, cuda: bool):
        """Mark all tensors in a result as being on the GPU or on the CPU."""

        def one(value):
            if isinstance(value, T):
                self._marks[value] = cuda
            return value

        tree_map(one, result)
        return result

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if self._off:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if func in BACKWARD:
            return self._run_backward(func, args, kwargs)
        if func == T.device.__get__:
            return func(*args) if self.mark_of(args[0]) is False else CUDA
        if func in (T.is_cuda.__get__, T.is_cpu.__get__):
            return (self.mark_of(args[0]) is not False) == (func == T.is_cuda.__get__)
        if func == T.data.__set__:
            result = func(*args)
            self._marks[args[0]] = bool(self.mark_of(args[1]))
            return result
        if name in LOOKING:
            result = func(*args, **kwargs)
            return self.mark(result, bool(self.mark_of(args[0]))) if isinstance(result, T) else result
        return self._compute(func, name, args, kwargs)

    def _run_backward(self, func, args, kwargs):
        engine = torch.autograd._engine_run_backward

        def run(*args, **kwargs):
            with self:  # torch switches a mode off while it handles a call
                return engine(*args, **kwargs)

        self._backward += 1
        try:
            with mock.patch.object(torch.autograd, "_engine_run_backward", run):
                return func(*args, **kwargs)
        finally:
            self._backward -= 1

    def _compute(self, func, name, args, kwargs):
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, T)]
        marks = [self.mark_of(tensor) for tensor in tensors]
        any_cuda, unknown = any(marks), bool(marks) and all(mark is None for mark in marks)
        asked = self._asked(func, args, kwargs)
        target = any_cuda if asked is None else asked.type == "cuda"
        self._check_generator(name, kwargs.get("generator"), target)
        self._check_devices(func, name, tensors, marks, asked)
        if func is T.numpy and marks[0]:
            raise DeviceMixed(f"numpy() of a tensor on cuda:0 at {_place()}")
        self._count(func, name, args, kwargs, tensors, marks, asked)
        if asked is not None and asked.type == "cuda":
            args, kwargs = tree_map(_on_cpu, args), tree_map(_on_cpu, kwargs)
        result = T.clone(*args) if func is T.cuda else func(*args, **kwargs)
        if func in (T.to, T.cpu) and result is args[0] and target != bool(marks[0]):
            result = result.clone()  # a copy on the other device, not the same object
        if name in TO_HOST:
            return result
        return self.mark(result, target or (unknown and asked is None and self._backward > 0))

    def _asked(self, func, args, kwargs) -> torch.device | None:
        """Return the device that a call asks for, or None if its result is where its arguments are."""
        if func is T.cuda:
            return CUDA
        if func in (T.cpu, T.numpy):
            return CPU
        asked = kwargs.get("device")
        if func is T.to:
            for value in (*args[1:], kwargs.get("other")):
                if isinstance(value, T):
                    asked = CUDA if self.mark_of(value) else value.device
                elif isinstance(value, (str, torch.device)):
                    asked = value
        return None if asked is None else torch.device(asked)

    def _check_generator(self, name: str, generator, target: bool) -> None:
        if isinstance(generator, torch.Generator) and target != any(generator is one for one in self._generators):
            expected, found = ("cuda", "cpu") if target else ("cpu", "cuda")
            raise DeviceMixed(f"{name}: expected a generator on {expected}, got one on {found}, at {_place()}")

    def _check_devices(self, func, name, tensors, marks, asked) -> None:
        on_cpu = [tuple(t.shape) for t, mark in zip(tensors, marks, strict=True) if mark is False and t.dim() > 0]
        if not any(marks) or asked is not None or func in MIXING or not on_cpu:
            return
        if func is T.__getitem__:
            if marks[0] is False:
                raise DeviceMixed(f"an index on cuda:0 into a tensor on the CPU at {_place()}")
            return
        raise DeviceMixed(f"{name}: tensors on cuda:0 and on the CPU {on_cpu} at {_place()}")

    def _count(self, func, name, args, kwargs, tensors, marks, asked) -> None:
        any_cuda = any(marks)
        to_gpu = asked is not None and asked.type == "cuda"
        kind = None
        if func in WAITING or (name == "where" and len(args) + len(kwargs) == 1):
            kind = name
        elif func is T.to and asked is not None and asked.type == "cpu":
            kind = "to cpu"
        elif func in (T.__getitem__, T.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(one, T) and one.dtype in (torch.bool, torch.uint8) and one.dim() for one in index):
                kind = "boolean mask"
            elif any(isinstance(one, list) or (isinstance(one, T) and self.mark_of(one) is False) for one in index):
                kind = "index on the CPU"
        elif name == "repeat_interleave" and "output_size" not in kwargs and len(tensors) > 1:
            kind = name
        if kind and any_cuda:
            self.waits[kind, _place()] += 1
        upload = func is T.to and to_gpu and marks[0] is False
        upload |= name in ("tensor", "as_tensor") and to_gpu and not any_cuda
        upload |= func is T.copy_ and bool(marks[0]) and marks[1] is False and tensors[1].dim() > 0
        if upload:
            self.uploads[name, _place()] += 1
            if not (kwargs.get("non_blocking") or (func is T.copy_ and args[2:] == (True,))):
                self.waits["upload", _place()] += 1


def _on_cpu(value):
    if isinstance(value, (torch.device, str)) and str(value).split(":")[0] == "cuda":
        return CPU
    return value


def _place() -> str:
    """Return the innermost line of this project that led to a call, or of another package if there is none."""
    frame, other = sys._getframe(1), "?"
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and "site-packages" not in name and "tests/support" not in name:
            return f"{name[len(ROOT) :]}:{frame.f_lineno}"
        if other == "?" and name != __file__ and "/torch/" not in name:
            other = f"{name.split('site-packages/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return other


class Event:
    """Substitute for an event on a GPU's stream."""

    def __init__(self):
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end._time - self._time)


@contextmanager
def pretend_cuda(monkeypatch) -> Iterator[PretendCuda]:
    """Enter the mode, with substitutes for what needs a real GPU: kernels, files read to a GPU, and the device itself.

    The kernels run on the CPU in the way in which a GPU is used: one launch, one point per thread.
    """
    from prolific_core import memory, optimise, seeding
    from prolific_core.render import warp_launch
    from prolific_core.render.hash_grid import tinycudann, warp
    from prolific_core.render.mesh.raster import Visibility
    from prolific_core.scenes import radiance_field, store
    from tasks.runtime import machine

    # Tensors that were kept by an earlier mode have no marks in this one.
    warp._tables.cache_clear()
    tinycudann._encoding.cache_clear()
    mode = PretendCuda()
    launch, first_hit, load_file = warp_launch.launch, Visibility._warp, store.load_file

    def launch_as_cuda(kernel, size, values, device):
        tensors = [value[0] if isinstance(value, tuple) else value for value in values]
        marks = [mode.mark_of(one) for one in tensors if isinstance(one, T)]
        if device.type == "cuda" and False in marks:
            raise DeviceMixed(f"kernel {kernel.key}: an argument is on the CPU at {_place()}")
        with mode.off():
            launch(kernel, size, values, CPU)

    def first_hit_as_cuda(self, origins, directions):
        if not all(mode.mark_of(one) for one in (self.vertices, self.faces, origins, directions)):
            raise DeviceMixed(f"the search structure needs all tensors on cuda:0 at {_place()}")
        with mode.off():
            found = first_hit(self, origins, directions)
        return mode.mark(found, True)

    def load_to(path, device="cpu"):
        with mode.off():
            found = load_file(path)
        return mode.mark(found, torch.device(device).type == "cuda")

    monkeypatch.setattr(warp_launch, "launch", launch_as_cuda)
    monkeypatch.setattr(Visibility, "_warp", first_hit_as_cuda)
    monkeypatch.setattr(store, "load_file", load_to)
    monkeypatch.setattr(seeding, "on_device", mode.generator)
    monkeypatch.setattr(optimise, "gpu_event", Event)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 24 * 10**9)
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: torch.device("cuda"))
    # Its check of a recomputation compares devices, which tensors made by autograd do not have here.
    monkeypatch.setattr(radiance_field, "checkpoint", partial(radiance_field.checkpoint, determinism_check="none"))
    with mode:
        yield mode
