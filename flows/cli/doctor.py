"""The command `prolific doctor`."""

import platform
import re
from importlib import metadata
from typing import Annotated

import typer


def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Compare the results of the GPU with the CPU, and do no more.")
    ] = False,
) -> int:
    """Show the versions, device, kernels and prior in use, and the reason for each choice.

    Files that a killed run has damaged are repaired, and all outputs are compared with their digests.
    """
    if gpu:
        return _check_gpu()
    from flows.orchestration import preflight
    from prolific_core.errors import ProlificError
    from tasks.runtime import machine
    from tasks.runtime.locks import prompt_lock
    from tasks.runtime.project import Project

    project = Project.find()
    shared = project.shared_config()
    machine.threads(shared.system.threads)
    print("project")
    _line("root", project.root)
    _line("prompts", len(project.prompt_ids()))
    for id in project.prompt_ids():
        try:
            preflight.check(project, id)
            with prompt_lock(project, id):
                preflight.repair(project, id)
        except ProlificError as error:
            _line(id, error)
    print("\nversions")
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    for name in _requirements():
        try:
            _line(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            _line(name, "not installed")

    import torch

    print("\ndevice")
    device = shared.system.device
    found = torch.cuda.is_available()
    used = ("cuda" if found else "cpu") if device == "auto" else device
    _line("GPU", f"yes: {torch.cuda.get_device_name()}" if found else f"none that torch {torch.__version__} can use")
    if found:
        from prolific_core.render.warp_launch import gpu_obstacle

        _line("warp", gpu_obstacle() or "can use the GPU")
    _line("used", f"{used} (params.yaml: system.device = {device})")
    _line("threads", f"{shared.system.threads} (params.yaml: system.threads)")

    from prolific_core.render import backends

    print("\nkernels")
    for kernel in backends.EXTENSIONS:
        try:
            choice = backends.choose(kernel, shared.system.backend, used)
            _line(kernel, f"{choice.name}: {choice.reason}")
        except ProlificError as error:
            _line(kernel, f"none: {error}")

    from prolific_core.prior.location import locate

    print("\nprior")
    try:
        _line(shared.prior.path, f"found: {locate(shared.prior.path)}")
    except ProlificError as error:
        _line(shared.prior.path, f"missing: {error}")
    return 0


def _check_gpu() -> int:
    """Compare the kernels and networks on the GPU with the CPU. Return 1 if one of them differs, and 0 otherwise."""
    from tasks.runtime import machine
    from tasks.runtime.project import Project

    system = Project.find().shared_config().system
    machine.threads(system.threads)
    wanted = system.device if system.device.startswith("cuda") else "cuda"
    device = machine.set_up_torch(system.threads, wanted)
    from flows.benchmarks import gpu_check

    failed = 0
    for result in gpu_check.check(device):
        _line(f"{'pass' if result.passed else 'FAIL'}  {result.name}", result.detail)
        failed += not result.passed
    return 1 if failed else 0


def _requirements() -> list[str]:
    """Return the names of the required and optional packages, except those for development."""
    lines = metadata.requires("prolific") or []
    return [
        re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0]
        for line in lines
        if not re.search("extra == .(test|develop|docs)", line)
    ]


def _line(name: str, value: object) -> None:
    print(f"  {name:<16} {value}")
