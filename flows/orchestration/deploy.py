"""Deployments on a Prefect server (`prolific deploy`) and the workers that run them (`prolific worker`)."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil

from flows.orchestration import prefect_runtime, prefect_server
from prolific_core.errors import InputError, ProlificError, mask
from tasks.runtime import machine
from tasks.runtime.gpus import visible
from tasks.runtime.project import Project

SILENCE = 90  # seconds without a heartbeat (sent every 30 s) before a run is marked as crashed
PATIENCE = 30  # seconds to wait for workers to exit, and to hand over checkpoints, before they are killed
HEAD = "head"  # work queue for sweeps, which need no GPU because they only wait for other runs
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def server(project: Project) -> str:
    """Return the API URL of the user's Prefect server.

    Raises an InputError if the user has no server, or if it does not answer to this client.
    """
    url = prefect_server.connect(project)
    if not url:
        raise InputError(
            "no Prefect server: start one with `prolific server`, or set PREFECT_API_URL to that of a running server"
        )
    if problem := prefect_server.problem(url, seconds=60):  # a server that is busy is no missing one
        raise InputError(problem)
    return url


def deploy(project: Project, pool: str = "gpu") -> None:
    """Create or update the work pool, the deployments in prefect.yaml, and the automation for lost runs."""
    url = server(project)
    prefect_runtime.set_up(project, patient=True)
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            print(f"work pool   {pool}: created")
        except ObjectAlreadyExists:
            print(f"work pool   {pool}: already exists")
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=project.root,
        env={**os.environ, "PROLIFIC_ROOT": str(project.root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip(" │╭╰╮╯─")]
        raise ProlificError(f"prefect deploy failed: {' '.join(lines[-3:])}")
    print(f"deployments generate/{pool}, sweep/nightly (prefect.yaml)")
    create_automation()
    print(f"automation  runs without a heartbeat for {SILENCE} s are marked as crashed")
    print(f"server      {mask(url)}")
    print(f"\nstart workers with: prolific worker --pool {pool} --gpus 0,1 (without a GPU: --slots 1)")


def create_automation() -> None:
    """Create or update the automation that marks lost runs as crashed.

    Without it, the state of a run whose machine died would remain "running".
    """
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    name, heartbeat = "prolific: lost runs", "prefect.flow-run.heartbeat"
    automation = Automation(
        name=name,
        description="Marks runs whose process or machine died as crashed, so that a sweep restarts them.",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{state}" for state in ENDED)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        ),
        actions=[
            ChangeFlowRunState(name=None, state=StateType.CRASHED, message=f"no heartbeat for {SILENCE} s", force=False)
        ],
    )
    try:
        automation.id = Automation.read(name=name).id  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError:  # the automation does not exist yet
        automation.create()
    else:
        automation.update()


def work(project: Project, pool: str, gpus: list[str] | None, slots: int) -> int:
    """Run one worker per GPU and one worker for sweeps.

    `gpus` are names for CUDA_VISIBLE_DEVICES; without them, all GPUs are used. On a machine without a GPU, or with more
    than one slot, `slots` workers run, which see the same GPUs as this process.

    The workers run until this process is interrupted. If one of them exits earlier, a ProlificError is raised.
    """
    server(project)
    machine.disable_telemetry()
    os.environ.setdefault("PREFECT_HOME", str(project.state / "prefect"))
    (project.state / "prefect").mkdir(parents=True, exist_ok=True)
    gpus = gpus or (visible() if slots == 1 else [])
    places = (
        [(f"gpu{name}" if name.isdecimal() else name[:12], name) for name in gpus]
        if gpus
        else [(f"slot{number}", None) for number in range(slots)]
    )
    workers = {name: _worker(project, pool, name, "default", gpu, 1) for name, gpu in places}
    workers["head"] = _worker(project, pool, "head", HEAD, "", 4)
    print(f"workers of pool {pool}: {', '.join(workers)} (press Ctrl-C to stop them)", file=sys.stderr, flush=True)
    try:
        while True:
            for name, process in workers.items():
                if (status := process.poll()) is not None:
                    raise ProlificError(f"worker {name} exited with status {status}; stopping the other workers")
            time.sleep(0.5)
    finally:
        _stop(list(workers.values()))


def _worker(project: Project, pool: str, name: str, queue: str, gpu: str | None, limit: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--work-queue", queue]
    command += ["--type", "process", "--limit", str(limit), "--name", f"{socket.gethostname()}-{name}"]
    return subprocess.Popen(
        command,
        cwd=project.root,
        env={
            **os.environ,
            "PROLIFIC_ROOT": str(project.root),
            **_clone(project, name),
            **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
        },
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not reach the worker directly, because `_stop` sends it a signal
        preexec_fn=machine.die_with_parent,
    )


def _clone(project: Project, name: str) -> dict[str, str]:
    """Return the environment for runs in a clone of the worker's own (flows/cluster), which the first run makes."""
    found = subprocess.run(["git", "remote", "get-url", "origin"], cwd=project.root, capture_output=True, text=True)
    here = str(Path(sys.executable).parent)
    workspaces = Path(os.environ.get("PROLIFIC_WORKSPACES") or project.state / "workspaces")
    return {
        "PROLIFIC_WORKSPACE": str(workspaces / name),
        "PROLIFIC_REPOSITORY": os.environ.get("PROLIFIC_REPOSITORY") or found.stdout.strip(),
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),  # Prefect's steps run `python`
    }


def _stop(workers: list[subprocess.Popen]) -> None:
    """Stop the runs and then their workers with SIGTERM, and kill those that do not exit in time.

    Prefect's workers kill their runs at once when they receive SIGTERM, so the runs, which may hand over a checkpoint,
    are stopped first. Workers occasionally ignore SIGTERM, because the cancelled task keeps running.
    """
    runs = [run for process in workers for run in _runs(process)]
    for run in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            run.terminate()
    psutil.wait_procs(runs, PATIENCE)
    for process in workers:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    for process in workers:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            runs = psutil.Process(process.pid).children(recursive=True)  # includes runs in other sessions
            for one in (process, *runs):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def _runs(worker: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes of a worker's runs, each of which leads a session of its own."""
    try:
        return [child for child in psutil.Process(worker.pid).children() if os.getsid(child.pid) == child.pid]
    except (psutil.NoSuchProcess, ProcessLookupError):
        return []
