"""Wrapper around DVC's command line that puts this Python interpreter first in PATH and disables telemetry.

DVC loads pickles from its site cache, by default in a folder that every user of the machine can write to. It is
therefore in .state/dvc, which only its owner can open.

    python -m tasks.dvc_pipeline.cli repro prompts/a-red-mug/dvc.yaml:nerf

On Linux, the process ends when its parent dies.
"""

import os
import re
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from configobj import ConfigObj, ConfigObjError

from prolific_core.files import write_atomically
from tasks.runtime import machine
from tasks.runtime.project import Project


def environment() -> dict[str, str]:
    """Return a copy of the environment in which `python` is this interpreter and telemetry is disabled.

    DVC's site cache is a private folder of the project, which is created if needed.
    """
    machine.disable_telemetry()
    project = Project.find()
    cache = project.state / "dvc"
    (cache / "repo").mkdir(parents=True, exist_ok=True)  # DVC would create it with write permission for everyone
    cache.chmod(0o700)
    _set_site_cache(project, cache)
    # Do not resolve symlinks, because PATH must contain the virtual environment's folder, where `python` is a link.
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "DVC_SITE_CACHE_DIR": str(cache),
    }


def _set_site_cache(project: Project, cache: Path) -> None:
    """Set the site cache's absolute path in .dvc/config.local, which plain `dvc` reads too.

    The path in .dvc/config is relative to the current folder, because a clone may be anywhere. `dvc exp run --queue`,
    which changes folders, fails with it. A site cache of the user's own is kept.
    """
    path = project.root / ".dvc" / "config.local"
    if not path.parent.is_dir():
        return
    try:
        local: Any = ConfigObj(str(path), encoding="utf-8", default_encoding="utf-8")
    except (ConfigObjError, ValueError):
        return  # DVC reports the mistake
    core = local.setdefault("core", {})
    old = core.get("site_cache_dir", "")
    if old == str(cache) or (old and not old.endswith("/.state/dvc")):  # the project may have been moved
        return
    core["site_cache_dir"] = str(cache)
    content = BytesIO()
    local.write(content)
    write_atomically(path, content.getvalue())


def read_only(*pipelines: str) -> None:
    """Make DVC load only these pipeline files (relative to the root) instead of all files in the project.

    Prompts do not depend on each other, and loading all their files would add 0.04 seconds per prompt to every stage.
    """
    from dvc.repo.index import Index

    def from_files(cls, repo, onerror=None):
        return cls.from_indexes(repo, [cls.from_file(repo, repo.fs.join(repo.root_dir, path)) for path in pipelines])

    Index.from_repo = classmethod(from_files)  # pyright: ignore[reportAttributeAccessIssue]


def look_up_parameters() -> None:
    """Make DVC look up the keys of parameters one level at a time.

    Its own search visits all keys of the file for each key of each stage, which takes half of the time of `dvc status`.
    It still searches for a key that is not found in this way, such as one that leads through a list, or whose part is
    a number in a YAML file.
    """
    import dpath
    from dvc.dependency import param

    def get(config: Any, key: str, separator: str = ".") -> Any:
        value = config
        for name in key.split(separator):
            if not isinstance(value, dict) or name not in value or any(character in name for character in "*?["):
                return dpath.get(config, key, separator=separator)
            value = value[name]
        return value

    param.dpath = SimpleNamespace(get=get, search=dpath.search)  # pyright: ignore[reportAttributeAccessIssue]


def _one_prompt(targets: list[str]) -> str | None:
    found = re.fullmatch(r"(prompts/[^/]+/dvc\.yaml)(:\w+)?", targets[0]) if len(targets) == 1 else None
    return found and found[1]


def main() -> int:
    machine.die_with_parent()
    machine.accept_interrupts()
    os.environ.update(environment())
    command, targets = sys.argv[1:2], [part for part in sys.argv[2:] if not part.startswith("-")]
    if command in (["repro"], ["status"]) and (pipeline := _one_prompt(targets)):
        read_only(pipeline)
    look_up_parameters()
    from dvc import lock
    from dvc.cli import main as dvc

    # While another stage holds a lock, DVC polls it every timeout / 6 seconds: 0.05 instead of the default 0.5.
    lock.DEFAULT_TIMEOUT = 0.3
    # The flag makes concurrent runs wait for locks instead of failing. It must precede the command.
    return dvc(["--wait-for-lock", *sys.argv[1:]])


if __name__ == "__main__":
    machine.exit_now(main())
