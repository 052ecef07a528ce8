"""`prolific sweep`, `worker` and `deploy`: many prompts, here or on a work pool. Imports nothing heavy."""

import argparse

from prolific_core.errors import InputError


def add_to(commands) -> None:
    sweep = commands.add_parser("sweep", help="bring prompts on file up to date; a failure does not stop the others")
    sweep.add_argument(
        "names", nargs="*", metavar="NAME", help="ids, sets or patterns such as 'a-red-*' (default: all)"
    )
    where = sweep.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=int, default=1, metavar="N", help="prompts at once on this machine (default 1)"
    )
    where.add_argument("--pool", metavar="NAME", help="let the workers of a Prefect work pool do it (prolific deploy)")
    sweep.add_argument("--only-failed", action="store_true", help="those that failed, were interrupted or never ran")
    sweep.add_argument("--max-failures", type=int, metavar="N", help="after so many failures, start no more")
    sweep.set_defaults(run=_sweep)

    worker = commands.add_parser("worker", help="run what a Prefect work pool is asked for, one process per GPU")
    worker.add_argument("--pool", default="gpu", metavar="NAME", help="the work pool (default gpu)")
    place = worker.add_mutually_exclusive_group()
    place.add_argument("--gpus", metavar="0,1", help="these GPUs, one prompt at a time on each")
    place.add_argument("--slots", type=int, default=1, metavar="N", help="without a GPU: prompts at once (default 1)")
    worker.set_defaults(run=_worker)

    deploy = commands.add_parser(
        "deploy", help="put pool, deployments (prefect.yaml) and automation on a Prefect server"
    )
    deploy.set_defaults(run=_deploy)


def _sweep(options: argparse.Namespace) -> int:
    for name in ("workers", "max_failures"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= 1000:
            raise InputError(f"--{name.replace('_', '-')} {value}: from 1 to 1000")
    from flows.sweep import sweep
    from tasks.runtime.project import Project

    return sweep(
        Project.find(),
        options.names,
        workers=options.workers,
        pool=options.pool,
        only_failed=options.only_failed,
        max_failures=options.max_failures,
    )


def _worker(options: argparse.Namespace) -> int:
    gpus = None
    if options.gpus is not None:
        if not all(part.isdecimal() for part in options.gpus.split(",")):
            raise InputError(f"--gpus {options.gpus}: numbers of GPUs, for example 0,1")
        gpus = sorted({int(part) for part in options.gpus.split(",")})
    if not 1 <= options.slots <= 256:
        raise InputError(f"--slots {options.slots}: from 1 to 256")
    from flows.orchestration.deploy import work
    from tasks.runtime.project import Project

    return work(Project.find(), options.pool, gpus, options.slots)


def _deploy(options: argparse.Namespace) -> None:
    from flows.orchestration.deploy import deploy
    from tasks.runtime.project import Project

    deploy(Project.find())
