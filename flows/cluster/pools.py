"""Deployments for workers that have clones of their own: processes, Docker containers or Kubernetes jobs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from flows.cluster import git, head, workspace
from flows.orchestration import deploy, prefect_runtime
from prolific_core.errors import InputError, ProlificError, mask
from prolific_core.yaml_reader import read_yaml
from tasks.runtime.project import Project

ENTRYPOINT = "flows/generate.py:generate"
PULL_STEPS = [
    {
        "prefect.deployments.steps.run_shell_script": {
            "id": "workspace",
            "script": "python -m flows.cluster.workspace",
            "directory": "{{ $PROLIFIC_ROOT }}",  # the worker's own code, which `prolific worker` or the image names
            "stream_output": False,
        }
    },
    {"prefect.deployments.steps.set_working_directory": {"directory": "{{ workspace.stdout }}"}},
]
ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # a run without a heartbeat for 90 seconds is marked as crashed
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # with growing pauses: a server that restarts is waited for
}


class PoolType(StrEnum):
    """Types of Prefect's work pools that Prolific has job templates for."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def create(project: Project, pool: str, kind: PoolType) -> None:
    """Create or update a work pool, its deployment, and the automation for lost runs."""
    repository = git.url(project.root)
    template = job_template(project, kind)
    variables = job_variables(project, kind, repository)
    url = deploy.server(project)
    prefect_runtime.set_up(project, patient=True)
    validate(kind, template, variables)
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type=kind.value, base_job_template=template))
            print(f"work pool   {pool}: created ({kind.value})")
        except ObjectAlreadyExists:
            if (there := client.read_work_pool(pool).type) != kind.value:
                raise InputError(
                    f"work pool '{pool}' exists and has type {there}; choose another name, or delete it first: "
                    f"prefect work-pool delete {pool}"
                ) from None
            if template:
                client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))
            print(f"work pool   {pool}: already exists ({kind.value})")
        client.create_deployment(
            client.create_flow_from_name("generate"),
            pool,
            description="One prompt, in a clone of the worker's own.",
            entrypoint=ENTRYPOINT,
            pull_steps=PULL_STEPS,
            work_pool_name=pool,
            work_queue_name="default",
            tags=[head.CLONES],
            job_variables=variables,
            enforce_parameter_schema=False,
        )
    print(f"deployment  generate/{pool}: workers clone {mask(repository)}")
    deploy.create_automation()
    print(f"automation  runs without a heartbeat for {deploy.SILENCE} s are marked as crashed")
    print(f"server      {mask(url)}")
    print(f"\nstart workers with: {START[kind].format(pool=pool)}")


START = {
    PoolType.PROCESS: "prolific worker --pool {pool}, in a clone on each machine",
    PoolType.DOCKER: "prefect worker start --pool {pool}, on each machine that has Docker",
    PoolType.KUBERNETES: "prefect worker start --pool {pool}, in the cluster (docs/cluster.md)",
}


def job_template(project: Project, kind: PoolType) -> dict[str, Any]:
    """Return the base job template of a work pool: Prefect's own, changed by deploy/pools/<type>.yaml.

    An empty dictionary stands for Prefect's template without changes.
    """
    if kind == PoolType.PROCESS:
        return {}
    template = _worker_class(kind).get_default_base_job_template()
    return _merge(template, _settings(project, kind).get("job_template") or {})


def job_variables(project: Project, kind: PoolType, repository: str) -> dict[str, Any]:
    """Return the deployment's values for the variables of the job template."""
    if kind == PoolType.PROCESS:  # a worker's own environment names its clone and the address of its repository
        return {"env": ENVIRONMENT}
    own = _settings(project, kind).get("job_variables") or {}
    address = {workspace.REPOSITORY: repository}
    return {**own, "env": {**ENVIRONMENT, **address, **(own.get("env") or {})}}


def validate(kind: PoolType, template: dict[str, Any], variables: dict[str, Any], client: Any = None) -> dict[str, Any]:
    """Check a job template and variables against Prefect's schemas, and return the job that a worker would start.

    Secret blocks are read from the server, or by `client`. Raises a ProlificError if one does not exist or if the
    values do not fit.
    """
    if kind == PoolType.PROCESS:
        return {}
    import jsonschema
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.asyncutils import run_coro_as_sync
    from pydantic import ValidationError

    worker = _worker_class(kind)
    schema = {"type": "object", "additionalProperties": False, **template["variables"]}
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(variables, schema)
        job = run_coro_as_sync(
            worker.job_configuration.from_template_and_values(
                base_job_template=template, values=variables, client=client
            )
        )
    except ObjectNotFound:
        raise ProlificError(
            f"the server does not have all Secret blocks that deploy/pools/{kind.value}.yaml names; create them: "
            "prefect block create secret"
        ) from None
    except (jsonschema.ValidationError, jsonschema.SchemaError, ValidationError, ValueError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())
        raise ProlificError(f"deploy/pools/{kind.value}.yaml does not fit Prefect's schema: {reason}") from None
    assert job is not None
    return json.loads(job.model_dump_json())


def _worker_class(kind: PoolType) -> Any:
    try:
        if kind == PoolType.DOCKER:
            from prefect_docker.worker import DockerWorker  # pyright: ignore[reportMissingImports]

            return DockerWorker
        from prefect_kubernetes.worker import KubernetesWorker  # pyright: ignore[reportMissingImports]

        return KubernetesWorker
    except ImportError:
        raise InputError(
            f"--type {kind.value} needs the package prefect-{kind.value}; install it: "
            f"pip install --constraint constraints.txt prefect-{kind.value}"
        ) from None


def _settings(project: Project, kind: PoolType) -> dict[str, Any]:
    shown = f"deploy/pools/{kind.value}.yaml"
    path: Path = project.root / shown
    if not path.is_file():
        raise InputError(f"{shown} does not exist; restore it: git checkout {shown}")
    found: Any = read_yaml(path, shown)
    if not isinstance(found, dict) or not found.keys() <= {"job_template", "job_variables"}:
        raise InputError(f"{shown}: expected the keys job_template and job_variables")
    return found


def _merge(base: Any, changes: Any) -> Any:
    """Return nested dictionaries with changed values."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: _merge(base.get(key), value) for key, value in changes.items()}}
