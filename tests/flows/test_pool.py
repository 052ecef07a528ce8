"""Runs on a work pool, as the sweep that waits for them sees them. The pool itself is a fake."""

import platform
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Late, Pending, Running, Scheduled

from flows import sweep
from flows.orchestration import dvc_runner, work_pool
from flows.reporting.sweep_progress import Board


class Client:
    """Client of a server, whose run has one state until it is set."""

    def __init__(self, state, error: Exception | None = None, workers: bool = True):
        self.state, self.error, self.workers, self.set = state, error, workers, []

    def read_flow_run(self, run):
        return SimpleNamespace(state=self.state)

    def read_work_pool(self, name):
        return SimpleNamespace(status="READY" if self.workers else "NOT_READY")

    def set_flow_run_state(self, run, state, force=False):
        if self.error:
            raise self.error
        self.set.append(state.type)


@pytest.fixture
def wait(project, monkeypatch, capsys):
    """Wait for a run until the sweep is stopped; return the running prompts in the meantime and what was printed."""
    monkeypatch.setattr(dvc_runner, "stopping", threading.Event())
    monkeypatch.setattr(work_pool, "POLL_SECONDS", 0.01)

    def wait(client: Client) -> tuple[list[str], list[str]]:
        @contextmanager
        def get_client(sync_client):
            yield client

        monkeypatch.setattr("prefect.client.orchestration.get_client", get_client)
        board, ended = Board(3), []

        def work() -> None:
            try:
                work_pool._until_it_ends(project, "gpu", "run", "a-red-mug", board)
            except KeyboardInterrupt:
                ended.append("stopped")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.1)
        running = board.running
        dvc_runner.stopping.set()
        thread.join(20)
        assert ended == ["stopped"]
        return running, capsys.readouterr().err.splitlines()

    return wait


def test_only_runs_that_a_worker_has_taken_count_as_running(wait):
    id, started = ["a-red-mug"], ["a-red-mug  started by a worker"]
    for state, expected in [
        (Scheduled(), ([], [])),
        (Late(), ([], [])),
        (Pending(), (id, [])),
        (Running(), (id, started)),
    ]:
        dvc_runner.stopping.clear()
        client = Client(state)
        assert wait(client) == expected, state.name
        assert client.set == [StateType.CANCELLING]


def test_a_pool_without_workers_is_reported_once(wait, monkeypatch):
    monkeypatch.setattr(work_pool, "IDLE", 0.02)
    hint = "no worker of pool 'gpu' is running; start one: prolific worker --pool gpu"
    assert wait(Client(Late(), workers=False)) == ([], [hint])
    dvc_runner.stopping.clear()
    assert wait(Client(Late())) == ([], [])


def test_a_server_that_is_lost_does_not_keep_an_interrupted_sweep(wait):
    _, said = wait(Client(Running(), error=httpx.ReadTimeout("no answer")))
    assert said[1:] == ["the Prefect server has not confirmed that all runs are cancelled; look at its page"]


def test_an_interruption_says_what_happens_to_running_prompts():
    board = Board(3)
    board.show("a-red-mug", "nerf")
    assert sweep._farewell(board, None).startswith("stopping 1 running prompt;\n")
    board.show("a-blue-mug", "nerf")
    assert sweep._farewell(board, "gpu").startswith("cancelling all runs on pool 'gpu', of which 2 are running;\n")
    board.wait("a-blue-mug")
    assert max(len(line) for line in sweep._farewell(board, "gpu").splitlines()) <= 80


def test_a_run_that_ends_is_returned(project, monkeypatch):
    @contextmanager
    def get_client(sync_client):
        yield Client(Cancelled())

    monkeypatch.setattr("prefect.client.orchestration.get_client", get_client)
    assert work_pool._until_it_ends(project, "gpu", "run", "a-red-mug", Board(1)).is_cancelled()


ARENAS = """
import ctypes, sys, threading
from flows.orchestration import work_pool
if sys.argv[1] == "shared":
    work_pool.share_arenas()
together = threading.Barrier(16)

def work():
    together.wait()
    kept = [bytes(number) for number in range(1000, 3000)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w")))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_arenas():
    def arenas(which: str) -> int:
        done = subprocess.run([sys.executable, "-c", ARENAS, which], capture_output=True, text=True, check=True)
        return done.stdout.count("<heap nr=")

    assert arenas("own") > 4 and arenas("shared") <= 2
