"""A Prefect server answers to its own clients only, and other commands find the one of `prolific server`."""

import base64
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from flows.orchestration import prefect_server as servers
from prolific_core.errors import InputError
from tasks.runtime.project import Project


def post(client: dict, headers: dict[str, str]) -> tuple[int, dict]:
    """Create a variable on a server, and return the status and the headers of the response."""
    body = json.dumps({"name": "x", "value": "y"}).encode()
    request = urllib.request.Request(
        f"{client['PREFECT_API_URL']}/variables/", body, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def authorization(string: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(string.encode()).decode()}"}


def test_a_web_page_and_another_user_are_refused(prefect_server):
    own, page = authorization(prefect_server["PREFECT_API_AUTH_STRING"]), {"Origin": "http://example.com"}
    # Another user, or a web page after DNS rebinding, can send such requests. Reading is refused, too.
    assert post(prefect_server, {})[0] == 403
    assert post(prefect_server, authorization("prolific:guess"))[0] == 403
    assert "refuses" in servers.problem(prefect_server["PREFECT_API_URL"], {servers.STRING: "prolific:guess"})
    status, headers = post(prefect_server, {**own, **page})
    assert status == 403 and "access-control-allow-origin" not in {name.lower() for name in headers}
    assert servers.problem(prefect_server["PREFECT_API_URL"], prefect_server) == ""
    assert "set PREFECT_API_AUTH_STRING" in servers.problem(prefect_server["PREFECT_API_URL"], {})


def test_other_commands_find_the_server_of_this_project(clone, monkeypatch, prefect_home):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    project, home = Project(clone.root), clone.root / ".state" / "prefect"
    running = clone.start("flows.cli.main", "server", "--port", str(port))
    end = time.monotonic() + 120
    while not (url := servers.connect(project)):
        assert time.monotonic() < end and running.poll() is None
        time.sleep(0.2)
    assert url == f"http://127.0.0.1:{port}/api" and (home / "auth_string").stat().st_mode & 0o777 == 0o600
    assert servers.problem(url) == "" and os.environ["PREFECT_API_AUTH_STRING"] == (home / "auth_string").read_text()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
        assert "Prefect" in page.read().decode()
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name)
    deployed = clone.prolific("deploy", PREFECT_HOME=str(home))
    assert deployed.returncode == 0 and f"server      {url}" in deployed.stdout, deployed.stderr
    assert clone.prolific("server", "--port", str(port)).returncode == 2
    other = clone.prolific("deploy", PREFECT_API_URL=url, PREFECT_API_AUTH_STRING="wrong")
    assert other.returncode == 2 and "refuses this client" in other.stderr and other.stderr.count("\n") == 1
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert "Traceback" not in out + err and (home / "auth_string").read_text() not in out + err
    assert not (home / "api_url").exists() and servers.connect(project) == ""


def test_a_port_in_use_is_named(project):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="is in use; choose another"):
        servers.serve(project, taken.getsockname()[1])


def test_a_server_that_accepts_requests_and_never_answers_is_left_out(clone):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        began = time.monotonic()
        done = clone.prolific("sweep", PREFECT_API_URL=url)
    assert done.returncode == 0 and f"no Prefect server answers at {url}; continuing without it" in done.stderr
    assert time.monotonic() - began < 60 and len(clone.ran()) == 6
