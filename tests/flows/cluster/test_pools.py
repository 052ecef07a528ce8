"""Job templates of Docker and Kubernetes pools, which Prefect's own schemas check, and the servers' compose file."""

import re
from pathlib import Path

import pytest
import yaml

from flows.cluster import pools
from prolific_core.errors import InputError, ProlificError
from tasks.runtime.project import Project

ROOT = Path(__file__).parents[3]
PROJECT = Project(ROOT)
KINDS = [pools.PoolType.DOCKER, pools.PoolType.KUBERNETES]


def job(kind: pools.PoolType, **changes) -> dict:
    template = pools.job_template(PROJECT, kind)
    variables = {**pools.job_variables(PROJECT, kind, "ssh://host/x.git"), **changes}
    return pools.validate(kind, template, variables, client=object())  # no server


@pytest.mark.cluster
def test_a_kubernetes_job_gets_one_gpu_its_secrets_and_time_to_hand_over():
    manifest = job(pools.PoolType.KUBERNETES, gpus=2, image="registry/prolific:1")["job_manifest"]
    assert (manifest["kind"], manifest["spec"]["backoffLimit"]) == ("Job", 0)
    pod = manifest["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"] == "registry/prolific:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["envFrom"] == [{"secretRef": {"name": "prolific"}}]
    environment = container["env"]  # the worker makes a list of it
    assert environment["PROLIFIC_REPOSITORY"] == "ssh://host/x.git"
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert not [name for name in environment if re.search("KEY|SECRET|PASSWORD|AUTH", name)]


@pytest.mark.cluster
def test_a_docker_container_gets_one_gpu_and_its_passwords_from_blocks():
    variables = pools.job_variables(PROJECT, pools.PoolType.DOCKER, "ssh://host/x.git")
    assert variables["env"]["AWS_SECRET_ACCESS_KEY"] == "{{ prefect.blocks.secret.prolific-s3-password }}"
    # A server would replace the names of the blocks; there is none here.
    found = job(pools.PoolType.DOCKER, env={"PROLIFIC_REPOSITORY": "ssh://host/x.git"})
    assert found["image"] == "prolific:latest"
    assert found["container_create_kwargs"]["device_requests"] == [
        {"driver": "nvidia", "count": 1, "capabilities": [["gpu"]]}
    ]


@pytest.mark.cluster
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{"imagee": "x"}, {"env": "not a mapping"}, {"namespace": 3, "mem_limit": []}])
def test_values_that_prefect_does_not_know_are_refused(kind, changes):
    with pytest.raises(ProlificError, match=f"deploy/pools/{kind}.yaml does not fit Prefect's schema"):
        job(kind, **changes)


def test_a_missing_package_or_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "prefect_docker.worker", None)
    with pytest.raises(InputError, match="--type docker needs the package prefect-docker; install it"):
        pools.job_template(PROJECT, pools.PoolType.DOCKER)
    with pytest.raises(InputError, match=r"deploy/pools/docker\.yaml does not exist; restore it"):
        pools.job_variables(Project(tmp_path), pools.PoolType.DOCKER, "")


def test_the_servers_need_passwords_and_listen_on_the_loopback_interface_only():
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(re.fullmatch(r"\$\{BIND:-127\.0\.0\.1\}:\d+:\d+", port) for port in ports)
    required = set(re.findall(r"\$\{(\w+):\?", text))
    used = set(re.findall(r"\$\{(\w+)", text))
    assert required == {name for name in used if re.search("PASSWORD|SECRET|AUTH|USER", name)}
    given = (ROOT / "deploy" / "example.env").read_text().splitlines()
    assert required == {line.removesuffix("=") for line in given if line and not line.startswith("#")}
