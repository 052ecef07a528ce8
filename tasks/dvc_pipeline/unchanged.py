"""Status of many prompts in one process, which DVC would need half a minute per hundred for.

`dvc status` reads params.yaml and hashes the same code again for every stage of every prompt, and takes a lock on every
path. Here each shared file is read once, nothing is locked, because neither outputs nor pipelines are written, and
repeated parts of the pipelines are parsed once. Everything else is DVC's own comparison.
"""

import contextlib
import functools
import gc
import logging
import os

from tasks.dvc_pipeline import cli
from tasks.runtime.project import Project


def unchanged(project: Project, ids: list[str]) -> set[str]:
    """Return the prompts of which DVC would run no stage.

    Their dvc.yaml must be as `pipeline.refresh` writes it, and their dvc.lock must have DVC's schema, which is not
    checked again. A prompt whose files DVC cannot read is not in the result. The function changes DVC in this process,
    which should do nothing else and end afterwards.
    """
    folders = {id: project.prompt_folder(id) for id in ids}
    ids = [id for id, folder in folders.items() if all((folder / f"dvc.{end}").is_file() for end in ("yaml", "lock"))]
    pipelines = {id: f"prompts/{id}/dvc.yaml" for id in ids}
    os.environ.update(cli.environment())
    cli.read_only(*pipelines.values())
    cli.look_up_parameters()
    _read_once()
    _lock_nothing()
    _parse_once()
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # no messages and no progress bars
    gc.set_threshold(100_000)  # a tenth of the time would go to looking for garbage
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    found = set()
    with Repo(str(project.root)) as repo:
        for id, pipeline in pipelines.items():
            with contextlib.suppress(DvcException):
                if not repo.status([pipeline]):  # pyright: ignore
                    found.add(id)
    return found


def _read_once() -> None:
    """Make DVC read each file of parameters, and hash each dependency, once in this process."""
    from dvc.dependency import base, param

    read, hashed = param.load_path, {}

    @functools.cache
    def load_path(path, fs):
        return read(path, fs)

    def get_hash(self):
        if self.fs_path not in hashed:
            hashed[self.fs_path] = super(base.Dependency, self).get_hash()  # pyright: ignore
        return hashed[self.fs_path]

    param.load_path = load_path
    base.Dependency.get_hash = get_hash  # pyright: ignore[reportAttributeAccessIssue]


def _parse_once() -> None:
    """Make DVC parse each scalar and each template such as `${id}` once in this process, and check no schema.

    The pipelines of all prompts have nearly the same scalars. This saves two fifths of the time.
    """
    from dvc.parsing import interpolate
    from dvc.utils import strictyaml
    from ruamel.yaml.resolver import VersionedResolver

    resolve, known = VersionedResolver.resolve, {}

    def resolve_once(self, *scalar):
        if scalar not in known:
            known[scalar] = resolve(self, *scalar)
        return known[scalar]

    VersionedResolver.resolve = resolve_once  # pyright: ignore[reportAttributeAccessIssue]
    interpolate.parse_expr = functools.cache(interpolate.parse_expr)
    strictyaml.validate = lambda *arguments, **options: None


def _lock_nothing() -> None:
    """Make DVC take no locks in this process, so that several processes can compare prompts at the same time."""
    from dvc import lock, rwlock

    lock.make_lock = lambda *arguments, **options: lock.LockNoop()
    rwlock.rwlock = lambda *arguments, **options: contextlib.nullcontext()
