"""Kills of whole commands and loss of machines, which take minutes and run in `make test-faults` only."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata

import psutil
import pytest

from flows.orchestration import prefect_server
from tasks.runtime.project import STAGES
from tests.flows.test_kills import files
from tests.flows.test_sweep import add, ask, until

pytestmark = pytest.mark.faults


def test_a_command_killed_at_any_moment_goes_on_by_any_other(clone, made_once, prefect_server):
    """Kill all processes, like a power cut, or one of them, like the out-of-memory killer, and run any command."""
    chance = random.Random(11)
    commands = [
        (["flows.cli.main", "sweep", "a-red-mug"], 9.0),
        (["flows.cli.main", "sweep", "a-red-mug", "--only-failed"], 9.0),
        (["tasks.dvc_pipeline.cli", "repro", "prompts/a-red-mug/dvc.yaml"], 6.0),
    ]
    for turn in range(24):
        command, seconds = commands[turn % len(commands)]
        running = clone.start(*command, **prefect_server)
        time.sleep(chance.random() * seconds)
        started = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
        if turn % 2:
            os.killpg(running.pid, signal.SIGKILL)  # the whole group; other processes end with their parents
        else:
            chance.choice(started).kill()  # one of them
        running.communicate(timeout=120)
        assert not psutil.wait_procs(started, timeout=20)[1]
        if turn % 6 == 5:  # another seed makes the stages run again
            clone.edit("prompts/a-red-mug/prompt.yaml", f"seed: {turn // 6}", f"seed: {turn // 6 + 1}")
    clone.edit("prompts/a-red-mug/prompt.yaml", "seed: 4", "seed: 0")
    done = clone.prolific("sweep", "a-red-mug", **prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(clone) == files(made_once)
    assert clone.repro() == []


@pytest.fixture
def whole_server(clone):
    """Server of `prolific server`, with the services for schedules and automations."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = clone.root / ".state" / "prefect"
    with open(clone.root / "server.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "server", "--port", str(port)],
            cwd=clone.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: (home / "api_url").exists() and prefect_server.answers((home / "api_url").read_text()))
        yield {
            "PREFECT_API_URL": (home / "api_url").read_text(),
            "PREFECT_API_AUTH_STRING": (home / "auth_string").read_text(),
        }
    finally:
        process.terminate()
        process.wait(30)


def test_the_prompt_of_a_lost_machine_is_made_by_another_worker(clone, project, whole_server):
    (id,) = add(project, "a blue chair")
    environment = {**whole_server, "PREFECT_LOGGING_LEVEL": "ERROR"}
    without = clone.prolific("sweep", "--pool", "gpu", **environment)
    assert without.returncode == 2 and "has no deployment generate/gpu; run `prolific deploy`" in without.stderr
    for _ in range(2):
        assert clone.prolific("deploy", **environment).returncode == 0
    assert len(ask(whole_server, "automations/filter")) == 1 and len(ask(whole_server, "deployments/filter")) == 2
    if metadata.version("sqlalchemy") < "2.1":
        (night, *_) = until(
            lambda: ask(whole_server, "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}})
        )
        assert night["expected_start_time"][11:16] == "02:00" and night["work_queue_name"] == "head"

    clone.trouble("nerf", "import time; time.sleep(5)")
    lost = clone.start("flows.cli.main", "worker", **environment)
    sweeping = clone.start("flows.cli.main", "sweep", id, "--pool", "gpu", **environment)
    until(lambda: clone.ran()[-1:] == ["nerf"])
    for process in [*psutil.Process(lost.pid).children(recursive=True), lost]:
        process.kill()
    lost.communicate()
    other = clone.start("flows.cli.main", "worker", **environment)
    try:
        out, err = sweeping.communicate(timeout=400)
        assert sweeping.returncode == 0 and "the run crashed; restarting it (1 of 2)" in err, out + err
        assert clone.ran() == ["initialise", "nerf", *list(STAGES)[1:]]
        # The sweep's own run has the same name, but no deployment.
        wanted = {"name": {"any_": [id]}, "deployment_id": {"is_null_": False}}
        runs = ask(whole_server, "flow_runs/filter", flow_runs=wanted, sort="START_TIME_ASC")
        assert [run["state_name"] for run in runs] == ["Crashed", "Completed"]
    finally:
        other.terminate()
        other.communicate(timeout=60)


def test_a_pool_makes_prompts_and_a_crashed_run_is_started_again(clone, project, prefect_server):
    clone.trouble("nerf", "import time; time.sleep(3)")
    environment = {**prefect_server, "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = clone.prolific("deploy", **environment)
    assert done.returncode == 0, done.stderr
    (automation,) = ask(prefect_server, "automations/filter")
    assert automation["name"] == "prolific: lost runs" and automation["trigger"]["within"] == 90
    deployments = {one["name"]: one for one in ask(prefect_server, "deployments/filter")}
    assert {name: one["work_queue_name"] for name, one in deployments.items()} == {"gpu": "default", "nightly": "head"}
    assert deployments["nightly"]["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    assert all(
        one["job_variables"]["env"] == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"} for one in deployments.values()
    )

    worker = clone.start("flows.cli.main", "worker", "--gpus", "3", **environment)
    sweeping = clone.start("flows.cli.main", "sweep", "--pool", "gpu", **environment)
    try:
        until(lambda: clone.ran()[-1:] == ["nerf"])
        stage = next(
            process for process in psutil.Process(worker.pid).children(recursive=True) if "tasks" in process.cmdline()
        )
        assert stage.environ()["CUDA_VISIBLE_DEVICES"] == "3"
        # The process of the flow run is a child of the worker.
        engine = next(process for process in stage.parents() if "prefect.engine" in process.cmdline())
        engine.kill()
        out, err = sweeping.communicate(timeout=120)
        assert sweeping.returncode == 0 and "the run crashed; restarting it (1 of 2)" in err, out + err
        assert clone.ran() == ["initialise", "nerf", *list(STAGES)[1:]]
        started = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 143
        assert not psutil.wait_procs(started, timeout=20)[1]
    finally:
        for process in (worker, sweeping):
            process.kill()
            process.communicate()
