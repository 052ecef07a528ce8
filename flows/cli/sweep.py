"""The commands `prolific sweep`, `prolific worker` and `prolific deploy`, which run many prompts."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from flows.cli.options import Force, Names
from prolific_core.errors import InputError


class PoolType(StrEnum):
    """Types of work pools whose workers have clones of their own; as in flows/cluster/pools.py."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def sweep(
    names: Names = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="The number of prompts to run at once on this machine.")
    ] = 1,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run the prompts on the workers of this Prefect work pool (see prolific deploy). By default, they run "
            "on this machine.",
        ),
    ] = None,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Run only the prompts that failed, were interrupted or never ran.")
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Start no more prompts after this number of failures. By default, all are started.",
        ),
    ] = None,
    force: Force = False,
) -> int:
    """Bring many prompts up to date. A prompt that fails does not stop the others.

    Examples:
    $ prolific sweep
    $ prolific sweep animals --workers 2
    $ prolific sweep 'a-red-*' --only-failed
    """
    if pool is not None and workers != 1:
        raise InputError("--workers and --pool cannot be used together; a pool has its own workers")
    from flows.orchestration import prefect_runtime, preflight, work_pool
    from tasks.runtime.project import Project
    from tasks.tracking.tracker import prepare

    if pool is not None:
        work_pool.share_arenas()
    project = Project.find()

    def report(error: InputError) -> None:
        print(f"prolific: {error}; the other prompts of the sweep run", file=sys.stderr, flush=True)

    if not preflight.choose(
        project, names or [], only_failed, report, force
    ):  # reports mistakes before a server starts
        print("nothing to do: no prompt failed or was interrupted")
        return 0
    prepare()
    prefect_runtime.set_up(project, patient=pool is not None)
    from flows import sweep as flow

    try:
        print(prefect_runtime.run_flow(flow.sweep, names, pool, workers, only_failed, max_failures))
    except flow.SweepFailed as failure:
        print(failure)
        return 1
    return 0


def worker(
    pool: Annotated[str, typer.Option(metavar="NAME", help="The work pool.")] = "gpu",
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="0,1", help="The GPUs to use, with one prompt at a time on each. By default, all that there are."
        ),
    ] = None,
    slots: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="The number of prompts to run at once without a GPU.")
    ] = 1,
) -> int:
    """Run the prompts that a Prefect work pool schedules, with one process per GPU.

    Examples:
    $ prolific worker --gpus 0,1
    $ prolific worker --pool cpu --slots 2
    """
    devices = None
    if gpus is not None:
        if slots != 1:
            raise InputError("--gpus and --slots cannot be used together: each GPU runs one prompt at a time")
        from tasks.runtime.gpus import choose

        devices = choose(gpus)
    from flows.orchestration.deploy import work
    from tasks.runtime.project import Project

    return work(Project.find(), pool, devices, slots)


def deploy(
    pool: Annotated[str, typer.Option(metavar="NAME", help="The work pool.")] = "gpu",
    kind: Annotated[
        PoolType | None,
        typer.Option(
            "--type",
            help="Workers have clones of their own, and run prompts as processes, in Docker or on Kubernetes. "
            "By default, they share this folder.",
        ),
    ] = None,
) -> None:
    """Create a work pool, its deployments and an automation on a Prefect server.

    The server is the one of `prolific server`, or the one at PREFECT_API_URL.
    Workers that share this folder have the deployments in prefect.yaml.

    Examples:
    $ prolific deploy
    $ prolific deploy --pool cluster --type process
    """
    from tasks.runtime.project import Project

    project = Project.find()
    if kind is not None:
        from flows.cluster import pools

        pools.create(project, pool, pools.PoolType(kind.value))
        return
    if pool != "gpu":
        raise InputError(
            "--pool without --type: prefect.yaml holds the deployments of the pool `gpu`; edit it, or add --type"
        )
    from flows.orchestration import deploy as deployment

    deployment.deploy(project)
