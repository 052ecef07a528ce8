"""A Prefect server answers to its own clients only, and other commands find the one of `prolific server`."""

import base64
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.orchestration import prefect_server as servers
from prolific_core.errors import InputError
from tasks.runtime.project import Project
from tests.support.silence import Silence


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


def test_a_server_that_is_restarted_comes_back_and_a_silent_one_does_not(prefect_server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not servers.comes_back(f"http://127.0.0.1:{port}/api", 60)
    assert not servers.comes_back(f"http://127.0.0.1:{port}/api", 0.2)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    started = []
    restart = threading.Timer(1, lambda: started.append(ThreadingHTTPServer(("127.0.0.1", port), Answers)))
    restart.start()
    thread = threading.Thread(target=lambda: (restart.join(), started[0].serve_forever()))
    thread.start()
    try:
        assert servers.comes_back(f"http://127.0.0.1:{port}/api", 60)
    finally:
        restart.join()
        started[0].shutdown()
        started[0].server_close()


def test_a_server_that_falls_silent_during_a_run_is_given_up_once(clone, prefect_server):
    """The run of the sweep itself does not wait again for the server that the run of the prompt has given up."""
    relay = Silence(prefect_server["PREFECT_API_URL"])
    relay.start()
    running = clone.start("flows.cli.main", "sweep", **{**prefect_server, "PREFECT_API_URL": relay.url})
    while "nerf" not in clone.ran():
        assert running.poll() is None
        time.sleep(0.1)
    relay.silent.set()
    out, err = running.communicate(timeout=600)
    relay.listening.close()
    assert running.returncode == 0 and "1 prompt: 1 done" in out and "Traceback" not in err, err
    assert err.count("no longer answers; continuing without it") == 1
    assert relay.unanswered == 2  # both are attempts to record the end of the prompt's run
