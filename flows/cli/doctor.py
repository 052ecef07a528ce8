"""What runs here: versions, device, the implementation of every kernel, the prior; each with its reason."""

import platform
from importlib import metadata

from flows.orchestration import preflight
from prolific_core.errors import ProlificError
from tasks.runtime import machine
from tasks.runtime.project import Project


def doctor(project: Project) -> None:
    """Print it all; nothing is changed but what flows/orchestration/preflight.py repairs."""
    from prolific_core import config, prompts

    # As the stages run, but for the preset, which belongs to a prompt.
    shared = config.resolve(("params.yaml", prompts.read_yaml(project.root / "params.yaml", "params.yaml") or {}))
    machine.threads(shared.system.threads)
    _head("project")
    _line("root", project.root)
    _line("prompts", len(project.prompt_ids()))
    for id in project.prompt_ids():
        try:
            preflight.check(project, id)  # what a kill left behind, before a `dvc repro` by hand stumbles over it
        except ProlificError as error:
            _line(id, error)
    _head("versions")
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    for name in _packages():
        try:
            _line(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            _line(name, "not installed")

    import torch

    _head("device")
    device = shared.system.device
    gpu = torch.cuda.is_available()
    used = ("cuda" if gpu else "cpu") if device == "auto" else device
    _line("GPU", f"yes: {torch.cuda.get_device_name()}" if gpu else f"none that torch {torch.__version__} can use")
    _line("used", f"{used} (params.yaml: system.device = {device})")
    _line("threads", f"{shared.system.threads} (params.yaml: system.threads)")

    from prolific_core.render import backends

    _head("kernels")
    for kernel in backends.EXTENSIONS:
        try:
            choice = backends.choose(kernel, shared.system.backend, used)
            _line(kernel, f"{choice.name}: {choice.reason}")
        except ProlificError as error:
            _line(kernel, f"none: {error}")

    from prolific_core.prior.location import locate

    _head("prior")
    try:
        _line(shared.prior.path, f"found: {locate(shared.prior.path)}")
    except ProlificError as error:
        _line(shared.prior.path, f"missing: {error}")


def _packages() -> list[str]:
    """The packages that this one asks for, from its own metadata."""
    import re

    wanted = metadata.requires("prolific") or []
    return [re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in wanted if "extra == 'test'" not in line]


def _head(text: str) -> None:
    print(f"\n{text}" if text != "project" else text)


def _line(name: str, value: object) -> None:
    print(f"  {name:<16} {value}")
