"""The claim of a worker on its prompt, while Prefect's server is away for a moment."""

import contextlib

import httpx
import pytest
from prefect.client import orchestration
from prefect.concurrency import sync

from flows.cluster import worker_run


@pytest.fixture
def server(monkeypatch):
    """Server that refuses the given numbers of requests to claim and to release, and a list of what happened."""
    lost, seen = {"claim": 0, "release": 0}, []

    def request(name: str) -> None:
        lost[name] -= 1
        if lost[name] >= 0:
            raise httpx.ConnectError("All connection attempts failed")
        seen.append(name)

    @contextlib.contextmanager
    def concurrency(*args, **kwargs):
        request("claim")
        try:
            yield
        finally:
            request("release")

    class Client(contextlib.AbstractContextManager):
        def upsert_global_concurrency_limit_by_name(self, name, limit): ...

        def __exit__(self, *error): ...

    monkeypatch.setattr(sync, "concurrency", concurrency)
    monkeypatch.setattr(orchestration, "get_client", lambda **_: Client())
    monkeypatch.setattr(worker_run, "POLL_SECONDS", 0.01)
    return lost, seen


def test_a_server_that_is_away_when_a_prompt_is_claimed_is_waited_for(server):
    lost, seen = server
    lost["claim"] = 2
    with worker_run._lease("a-red-mug"):
        seen.append("work")
    assert seen == ["claim", "work", "release"]


def test_a_server_that_stays_away_fails_the_run(server, monkeypatch):
    lost, seen = server
    lost["claim"] = 1000
    monkeypatch.setattr(worker_run, "PATIENCE", 0.1)
    with pytest.raises(httpx.ConnectError), worker_run._lease("a-red-mug"):
        seen.append("work")
    assert not seen


def test_a_finished_prompt_needs_no_server_to_release_it(server):
    lost, seen = server
    lost["release"] = 1
    with worker_run._lease("a-red-mug"):
        seen.append("work")
    assert seen == ["claim", "work"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("away", [0, 1])
def test_what_ended_the_work_is_raised_and_not_that_the_server_was_away(server, error, away):
    lost, _ = server
    lost["release"] = away
    with pytest.raises(error), worker_run._lease("a-red-mug"):
        raise error
