"""Sweeps: failures, kills, lost servers, concurrent runs of one prompt, workers and messages."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import psutil
import pytest

from flows import sweep
from flows.orchestration import dvc_runner, prefect_runtime, preflight, run_status
from flows.orchestration.run_status import RunStatus
from flows.prompt_store import create, sets
from flows.reporting import sweep_progress as board
from prolific_core.errors import InputError, ProlificError
from tasks.runtime.failures import STOPPED
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import STAGES
from tests.support.silence import Silence


def add(project, *texts: str) -> list[str]:
    prompts = [create.plan(project, create.PromptRequest(text, preset="tiny", id=text.split()[-1])) for text in texts]
    for prompt in prompts:
        create.put(project, replace(prompt, forced=True))  # the prior does not know words such as "car2"
    return [prompt.id for prompt in prompts]


def until(ready, seconds: float = 90):
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


def in_mlflow(project) -> dict:
    """Return the status of the prompts' parent runs by experiment and name."""
    from mlflow import MlflowClient

    from tasks.tracking import tracker

    client = MlflowClient(tracker.uri(project))
    found = {
        experiment.name: client.search_runs([experiment.experiment_id]) for experiment in client.search_experiments()
    }
    return {
        name: {run.info.run_name: run.info.status for run in runs if "stage" not in run.data.tags}
        for name, runs in found.items()
        if runs
    }


def ask(server: dict, path: str, **body) -> list[dict]:
    """Send a request as Prefect's own clients do, with the secret string and a CSRF token."""
    string = base64.b64encode(server["PREFECT_API_AUTH_STRING"].encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {string}"}
    client = str(uuid.uuid4())
    token = urllib.request.Request(f"{server['PREFECT_API_URL']}/csrf-token?client={client}", headers=headers)
    with urllib.request.urlopen(token, timeout=30) as answer:
        headers |= {"Prefect-Csrf-Token": json.load(answer)["token"], "Prefect-Csrf-Client": client}
    request = urllib.request.Request(f"{server['PREFECT_API_URL']}/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


POISON = "import sys\nraise ImportError('torch and diffusers are not for looking')\n"


def test_a_failure_stops_no_other_and_only_it_runs_again(clone, project, prefect_server, tmp_path):
    add(project, "a blue chair", "a green car")
    clone.trouble("nerf", "if 'green' in stage.prompt.text: print('last words', flush=True); raise MemoryError")
    done = clone.prolific("sweep", "chair", "car", "--workers", "2", PROLIFIC_TRACKER="flow", **prefect_server)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["chair", "done"] and lines[1].split()[:2] == ["car", "failed"]
    assert "car: stage 'nerf' of 'car' failed: out of memory" in done.stdout and "    last words" in lines
    assert lines[-1] == "2 prompts: 1 done, 1 failed; to continue, run: prolific sweep --only-failed"
    assert all(len(line) <= 80 for line in done.stderr.splitlines()), done.stderr
    assert sorted(clone.ran()) == sorted([*STAGES, "initialise", "nerf"])

    # Prefect has a run for each prompt below the run of the sweep, and the table of results.
    runs = ask(prefect_server, "flow_runs/filter", sort="START_TIME_DESC", limit=3)
    states = {run["name"]: run["state_name"] for run in runs}
    assert states == {"chair": "Completed", "car": "Failed", "chair, car": "Failed"}
    assert [run["parent_task_run_id"] is None for run in runs] == [run["name"] == "chair, car" for run in runs]
    (table,) = ask(prefect_server, "artifacts/latest/filter", artifacts={"key": {"any_": ["sweep-results"]}})
    assert {row["prompt"]: row["state"] for row in json.loads(table["data"])} == {"chair": "done", "car": "failed"}
    (progress,) = ask(prefect_server, "artifacts/latest/filter", artifacts={"key": {"any_": ["sweep-progress"]}})
    assert progress["data"] == 100

    # Prefect's own command retries the failed run, in which finished stages do not run again.
    (clone.root / "trouble-nerf.py").unlink()
    failed = next(run["id"] for run in runs if run["name"] == "car")
    again = clone.run(
        "prefect",
        "flow-run",
        "retry",
        failed,
        "--entrypoint",
        "flows/generate.py:generate",
        PROLIFIC_TRACKER="flow",
        **prefect_server,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert clone.ran()[-5:] == list(STAGES)[1:] and len(clone.ran()) == 8 + 5
    assert clone.prolific("sweep", "chair", "car", "--only-failed").stdout.startswith("nothing to do")
    assert in_mlflow(project) == {"chair, car": {"chair": "FINISHED", "car": "FINISHED"}}

    # The same sweep starts no run of a finished prompt.
    again = clone.prolific("sweep", "chair", "car", PROLIFIC_TRACKER="flow", **prefect_server)
    assert again.returncode == 0 and "finished prompts: 2 of 2" in again.stderr
    latest = ask(prefect_server, "flow_runs/filter", sort="START_TIME_DESC", limit=4)
    assert sorted(run["name"] for run in latest) == ["car", "chair", "chair, car", "chair, car"]
    (table,) = ask(prefect_server, "artifacts/latest/filter", artifacts={"key": {"any_": ["sweep-results"]}})
    assert all(row["state"] == "done" and "#/experiments/" in row["MLflow"] for row in json.loads(table["data"]))

    # Another sweep is another experiment, to which MLflow gets the run. No process loads torch or diffusers.
    for name in ("torch", "diffusers"):
        (tmp_path / f"{name}.py").write_text(POISON)
    path = os.pathsep.join([str(tmp_path), str(clone.root)])
    other = clone.prolific("sweep", "chair", PROLIFIC_TRACKER="flow", PYTHONPATH=path, **prefect_server)
    assert other.returncode == 0 and "finished prompts" not in other.stderr and len(clone.ran()) == 13, other.stderr
    assert in_mlflow(project)["prolific"] == {"chair": "FINISHED"}
    assert clone.prolific("prompts", "list", PYTHONPATH=path).returncode == 0
    assert (
        "torch"
        in clone.run("tasks.nerf", PYTHONPATH=path).stdout + clone.run("prolific_core.optimise", PYTHONPATH=path).stderr
    )


def test_a_broken_prompt_file_stops_no_other_prompt(clone, project, prefect_server):
    chair, car = add(project, "a blue chair", "a green car")
    (project.prompt_folder(car) / "prompt.yaml").write_text("id: 'car\n")
    listed = clone.prolific("prompts", "list")
    assert listed.returncode == 0 and "a blue chair" in listed.stdout
    assert "not listed: prompts/car/prompt.yaml" in listed.stderr
    done = clone.prolific("sweep", car, chair, **prefect_server)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("prolific: prompts/car/prompt.yaml, line ")
    assert "\ncar: prompts/car/prompt.yaml, line " in done.stdout and "1 done, 1 failed" in done.stdout
    assert sorted(clone.ran()) == sorted(STAGES)
    alone = clone.prolific("sweep", car, **prefect_server)
    assert alone.returncode == 2 and alone.stderr.count("\n") == 1
    assert clone.prolific("prompts", "remove", car).returncode == 0 and project.prompt_ids()[-1] == chair


def test_concurrent_runs_need_no_retry(prefect_server):
    """SQLite refuses a transaction that writes after a read while another one writes; the client then waits."""
    flow = ask(prefect_server, "flows/", name="at once")

    def create(number: int):
        name = f"at once {number}"
        return ask(prefect_server, "flow_runs/", flow_id=flow["id"], name=name, state={"type": "RUNNING"})

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(64)))  # urllib raises for status 503
    assert len({run["id"] for run in made}) == 64


def test_concurrent_runs_of_one_prompt_run_its_stages_once(clone, prefect_server):
    clone.trouble("nerf", "import time; time.sleep(3)")
    first = clone.start("flows.cli.main", "generate", "a red mug", **prefect_server)
    until(lambda: "nerf" in clone.ran())
    second = clone.prolific("generate", "a red mug", **prefect_server)
    assert second.returncode == 0 and "another run of 'a-red-mug' is in progress; waiting for it" in second.stderr
    assert first.wait(60) == 0 and clone.ran() == list(STAGES)
    first.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_sweep_that_waits_for_another_run(clone, project, prefect_server, number):
    (chair,) = add(project, "a blue chair")
    with prompt_lock(project, chair):
        waiting = clone.start("flows.cli.main", "sweep", chair, **prefect_server)
        while "waiting for it" not in waiting.stderr.readline():
            assert waiting.poll() is None
        began = time.monotonic()
        waiting.send_signal(number)
        out, err = waiting.communicate(timeout=60)
        assert time.monotonic() - began < 5
    assert waiting.returncode == 128 + number and "Traceback" not in out + err and clone.ran() == []


def test_a_parameter_that_changes_during_the_run_is_noticed(clone, prefect_server):
    clone.trouble("geometry", "import time; time.sleep(2)")
    running = clone.start("flows.cli.main", "generate", "a red mug", **prefect_server)
    until(lambda: "geometry" in clone.ran())
    clone.edit("prompts/a-red-mug/prompt.yaml", "nerf: {}", "nerf: {steps: 9}")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, out + err
    assert clone.ran() == [*list(STAGES)[:5], *list(STAGES)[1:]]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_lost_server_stops_nothing_and_a_signal_stops_everything_quietly(clone):
    """This concerns the server that the command starts itself."""
    clone.trouble("nerf", "import time; time.sleep(3 if stage.prompt.seed == 0 else 100)")
    running = clone.start("flows.cli.main", "sweep")
    until(lambda: "nerf" in clone.ran())
    (server,) = [
        child
        for child in psutil.Process(running.pid).children()
        if "flows.orchestration.prefect_server" in child.cmdline()
    ]
    server.kill()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0 and clone.ran() == list(STAGES), err
    said = [line for line in err.splitlines() if line.startswith("prolific: ")]
    assert len(said) == 1 and said[0].endswith("no longer answers; continuing without it")
    assert "Event" not in err and "Traceback" not in err

    clone.edit("prompts/a-red-mug/prompt.yaml", "seed: 0", "seed: 1")
    running = clone.start("flows.cli.main", "sweep")
    until(lambda: clone.ran()[6:] == ["initialise", "nerf"])
    started = psutil.Process(running.pid).children(recursive=True)
    assert len(started) == 3  # the server, DVC, the stage
    os.killpg(running.pid, signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 143 and err.splitlines()[-1].startswith("prolific: stopped") and "Event" not in err, (
        err
    )
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    from tasks.runtime.project import Project

    assert run_status.is_unfinished(Project(clone.root), "a-red-mug")


@pytest.fixture
def plain(project, monkeypatch):
    """Run a sweep without Prefect, in which a function of the test takes the place of the flow of each prompt."""
    monkeypatch.setattr(prefect_runtime, "_offline", True)
    monkeypatch.setattr(dvc_runner, "stopping", threading.Event())
    ids = add(project, "a blue car", "a red car2", "a pink car3", "a green car4")

    def run(one, **options):
        monkeypatch.setattr(sweep, "_local_runner", lambda names, workers: lambda id, board: one(id))
        rows = sweep._run(project, ids, ids, None, options.get("workers", 1), options.get("max_failures"))
        return {row.id: row.state for row in rows}

    return run


def test_after_so_many_failures_no_more_are_started(plain, project):
    def one(id):
        if id in ("car", "car3"):
            raise InputError("no")

    assert plain(one) == {"car": "failed", "car2": "done", "car3": "failed", "car4": "done"}
    assert plain(one, max_failures=2) == {"car": "failed", "car2": "done", "car3": "failed", "car4": "waiting"}
    assert plain(one, max_failures=1) == {"car": "failed", "car2": "waiting", "car3": "waiting", "car4": "waiting"}


def test_as_many_run_at_once_as_there_are_workers(plain):
    together = threading.Barrier(4)
    assert set(plain(lambda id: together.wait(20), workers=4).values()) == {"done"}
    running, most, lock = 0, 0, threading.Lock()

    def one(id):
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.05)
        with lock:
            running -= 1

    plain(one, workers=2)
    assert most == 2


def test_prompts_that_end_while_others_start(project, monkeypatch, capsys):
    monkeypatch.setattr(prefect_runtime, "_offline", True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        state = sweep._Sweep(project, {}, 2000, lambda id, board: None, max_failures=1)
        sweep._threads(state.bring_up_to_date, [f"car{number}" for number in range(2000)], 32)
    finally:
        sys.setswitchinterval(interval)
    assert len(state.rows) == 2000
    assert capsys.readouterr().err.splitlines()[-1].endswith("(2000 of 2000)")


def test_a_bug_is_one_failed_prompt(plain):
    assert plain(lambda id: [][1] if id == "car2" else None)["car2"] == "failed"


def test_a_prompt_that_is_edited_after_its_check_gets_a_run(plain, project, monkeypatch):
    monkeypatch.setattr(sweep, "up_to_date", lambda project, ids: {"car", "car2"})
    (project.prompt_folder("car") / "prompt.yaml").write_text("id: [")
    ran = []
    assert set(plain(ran.append).values()) == {"done"} and ran == ["car", "car3", "car4"]


def test_a_sweep_that_is_interrupted_in_its_check_is_continued(plain, project, monkeypatch):
    def interrupted(project, ids):
        raise KeyboardInterrupt

    run_status.write(project, "car", RunStatus("done"))
    monkeypatch.setattr(sweep, "up_to_date", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plain(lambda id: None)
    assert preflight.choose(project, ["car"], only_failed=True) == ["car"]


def test_only_failed_selects_what_a_kill_has_left(project):
    ids = add(project, "a blue car", "a red car2", "a pink car3")
    run_status.write(project, "car", RunStatus("done"))
    run_status.write(project, "car2", RunStatus("running"))  # the state after a kill
    assert preflight.choose(project, ids, only_failed=True) == ["car2", "car3"]  # car3 never ran
    for stage in STAGES:
        project.output("car3", stage).mkdir(parents=True)
        (project.output("car3", stage) / "manifest.json").write_text("{}")  # made by dvc repro, which records no status
    assert preflight.choose(project, ids, only_failed=True) == ["car2"]


def test_a_prompt_with_a_run_in_progress_is_not_removed(project):
    said = []
    with prompt_lock(project, "a-red-mug"):
        with pytest.raises(ProlificError, match="a run of prompt 'a-red-mug' is in progress"):
            sets.remove(project, "a-red-mug")
        thread = threading.Thread(target=lambda: prompt_lock(project, "a-red-mug", said.append).__enter__())
        thread.start()
        until(lambda: said)
        assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive() and "waiting for it" in said[0]


def test_a_terminal_shows_a_line_per_running_prompt_in_80_columns():
    from rich.console import Console

    shown = board.Board(5)
    long = "a-very-long-name-of-a-prompt-that-would-not-fit-in-a-line-of-it"
    for id in (long, "car"):
        console = shown.console(id)("geometry")
        console.status("loading the prior")
        assert shown._rows[id] == ("geometry", "", "loading the prior")
        console.values({"loss": 0.123456})
        console.step(1234, 15000, 1234.5)
    shown.end("mug", "done", "done after 5 s")
    screen = Console(width=80, force_terminal=False, file=io.StringIO(), record=True)
    screen.print(shown._table())
    lines = screen.export_text().splitlines()
    assert (
        all(len(line) <= 80 for line in lines)
        and "1234/15000" in lines[0]
        and lines[0].rstrip().endswith("21 min left")
    )
    assert (
        lines[1].split()[:3] == ["car", "geometry", "1234/15000"] and lines[2].strip() == "1 done, 2 running, 2 waiting"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "--workers", "0"], "'--workers': Input should be greater than or equal to 1"),
        (["sweep", "--max-failures", "0"], "'--max-failures': Input should be greater than or equal to 1"),
        (["sweep", "nothing-*"], "no prompt matches 'nothing-*'"),
        (["worker", "--gpus", "0,x"], "--gpus must be GPU numbers such as 0,1, or UUIDs such as GPU-5f2c..., got 0,x"),
        (["worker"], "no Prefect server: start one with `prolific server`"),
        (["deploy"], "no Prefect server: start one with `prolific server`"),
    ],
)
def test_bad_input_is_one_line_and_status_2(project, monkeypatch, capsys, arguments, said):
    from flows.cli import main as cli

    monkeypatch.chdir(project.root)
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("prolific: ") and err.count("\n") == 1 and said in err


def test_a_worker_per_gpu_sees_that_one_only_and_sweeps_see_none(project, prefect_server, monkeypatch):
    """Their execution is tested by `make test-faults`."""
    from flows.orchestration import deploy

    started = {}

    def start(command, **options):
        environment = options["env"]
        started[command[command.index("--name") + 1].rpartition("-")[2]] = (
            environment["CUDA_VISIBLE_DEVICES"],
            command[command.index("--work-queue") + 1],
            command[command.index("--limit") + 1],
        )
        assert environment["PROLIFIC_ROOT"] == str(project.root)
        return type(
            "Process",
            (),
            {
                "poll": lambda self: None if command[-1].endswith("gpu0") else 1,
                "send_signal": lambda *_: None,
                "wait": lambda *_: 0,
            },
        )()

    for name, value in prefect_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(deploy, "_clone", lambda project, name: {})  # asks git
    monkeypatch.setattr(deploy, "_runs", lambda worker: [])
    monkeypatch.setattr(deploy.subprocess, "Popen", start)
    with pytest.raises(ProlificError, match="worker gpu3 exited with status 1; stopping the other workers"):
        deploy.work(project, "gpu", ["0", "3"], 1)
    assert started == {"gpu0": ("0", "default", "1"), "gpu3": ("3", "default", "1"), "head": ("", "head", "4")}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_workers_that_miss_their_signal_are_ended_all_the_same(monkeypatch):
    from flows.orchestration import deploy

    run = "subprocess.Popen(['sleep', '100'], start_new_session=True)"
    deaf = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"{run}; print(flush=True); time.sleep(100)"
    )
    start = lambda code: subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)  # noqa: E731
    workers = [start(deaf), start("print(flush=True); import time; time.sleep(100)"), start(deaf)]
    for process in workers:
        process.stdout.readline()
    runs = psutil.Process(workers[0].pid).children()
    monkeypatch.setattr(deploy, "PATIENCE", 1)
    deploy._stop(workers)
    assert [process.wait(20) for process in workers] == [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGKILL]
    assert len(runs) == 1 and not psutil.wait_procs(runs, timeout=20)[1]
    for process in workers:
        process.stdout.close()


def test_the_deployments_name_flows_that_exist_and_a_night(project):
    import yaml

    found = {one["name"]: one for one in yaml.safe_load((project.root / "prefect.yaml").read_text())["deployments"]}
    assert {name: one["work_pool"]["work_queue_name"] for name, one in found.items()} == {
        "gpu": "default",
        "nightly": "head",
    }
    assert found["nightly"]["schedules"] == [{"cron": "0 2 * * *", "timezone": "UTC"}]
    for one in found.values():
        path, _, name = one["entrypoint"].partition(":")
        assert path == f"flows/{name}.py" and f"\ndef {name}(" in (project.root / path).read_text()
        assert one["work_pool"]["job_variables"]["env"] == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


def runs_on_pool(client, ids: list[str], since: datetime) -> dict:
    """Return the runs of prompts that were created after a time, by the prompt's id."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=ids)))
    return {run.name: run for run in found if run.created > since}


@pytest.mark.parametrize("silent", [False, True], ids=["a server that answers", "a server that has fallen silent"])
def test_ctrl_c_ends_a_sweep_on_a_pool_within_five_seconds(clone, project, prefect_server, silent):
    """It says what happens to the runs, of which a worker has started one."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import StateType
    from prefect.states import Running

    since = datetime.now(UTC)
    assert clone.prolific("deploy", **prefect_server).returncode == 0
    ids = add(project, "a blue chair", "a red car", "a pink mug")
    relay = Silence(prefect_server["PREFECT_API_URL"])
    relay.start()
    sweep = clone.start(
        "flows.cli.main", "sweep", *ids, "--pool", "gpu", **{**prefect_server, "PREFECT_API_URL": relay.url}
    )
    with SyncPrefectClient(
        prefect_server["PREFECT_API_URL"], auth_string=prefect_server["PREFECT_API_AUTH_STRING"]
    ) as client:
        runs = until(lambda: (found := runs_on_pool(client, ids, since)) and len(found) == len(ids) and found)
        client.set_flow_run_state(runs[ids[0]].id, Running())
        while f"{ids[0]}  started by a worker" not in sweep.stderr.readline():
            assert sweep.poll() is None
        if silent:
            relay.silent.set()
            time.sleep(3)  # each thread now waits for an answer
        began = time.monotonic()
        sweep.send_signal(signal.SIGINT)
        out, err = sweep.communicate(timeout=60)
        took = time.monotonic() - began
        relay.listening.close()
        states = {run.state.type for run in runs_on_pool(client, ids, since).values()}
    assert sweep.returncode == 130 and "Traceback" not in out + err, out + err
    lines = err.splitlines()
    assert lines[0] == "cancelling all runs on pool 'gpu', of which 1 is running;" and lines[-1] == STOPPED
    unconfirmed = "the Prefect server has not confirmed that all runs are cancelled; look at its page"
    assert (unconfirmed in lines) == silent
    assert silent or states <= {StateType.CANCELLING, StateType.CANCELLED}
    assert took < 5, f"{took:.1f} s"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_sweep_that_is_interrupted_waits_for_its_prompts(monkeypatch):
    class Signalled(Exception):
        pass

    def interrupt(*_) -> None:
        raise Signalled

    ended = []
    monkeypatch.setattr(dvc_runner, "stopping", threading.Event())
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Signalled):
            signal_soon = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            signal_soon.start()
            sweep._threads(lambda id: (time.sleep(1), ended.append(id)), ["a", "b"], 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended == ["a"]  # "b" was not started
