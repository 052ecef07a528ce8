"""Headless Chromium for tests of web pages, controlled by the DevTools protocol (`apt install chromium`)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [  # no request leaves this machine
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--disable-gpu",
    "--mute-audio",
    "--hide-scrollbars",
]


class Browser:
    """One page of a browser, whose profile is written to `folder`. Use it in a `with` statement."""

    def __init__(self, folder: Path, width: int = 1060, height: int = 2700):
        from websockets.sync.client import connect

        command = [
            FOUND,
            "--headless",
            "--no-sandbox",
            *QUIET,
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
        ]
        command += [
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--remote-debugging-port=0",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = _until((folder / "DevToolsActivePort").read_text).split()[0]
            address = f"http://127.0.0.1:{port}/json/list"
            page = _until(
                lambda: next(p for p in json.load(urllib.request.urlopen(address, timeout=10)) if p["type"] == "page")
            )
            self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        except BaseException:
            self._process.kill()
            raise
        self._sent = 0

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)

    def open(self, url: str) -> None:
        self._send("Page.navigate", url=url)

    def run(self, script: str):
        """Return the value of a JavaScript expression."""
        return self._send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str):
        """Wait until a JavaScript expression is truthy, and return its value."""
        return _until(lambda: self.run(script) or 1 / 0)

    def screenshot(self, path: Path, left: float, top: float, width: float, height: float) -> None:
        """Write a part of the page as a PNG file."""
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", clip=clip)["data"]))

    def _send(self, method: str, **parameters) -> dict:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]


def _until(look, seconds: float = 120):
    """Call `look` until it raises nothing, and return its result."""
    end = time.monotonic() + seconds
    while True:
        try:
            return look()
        except (ArithmeticError, IndexError, OSError, StopIteration):
            assert time.monotonic() < end, f"no result after {seconds} s"
            time.sleep(0.2)
