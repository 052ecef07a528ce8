"""Headless Chromium for tests of web pages, controlled by the DevTools protocol (`apt install chromium`)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "Chromium is not installed; on Debian: apt install chromium"
QUIET = [  # no request leaves this machine
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--use-angle=swiftshader",  # WebGL on the processor
    "--enable-unsafe-swiftshader",
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
            port = until((folder / "DevToolsActivePort").read_text).split()[0]
            address = f"http://127.0.0.1:{port}/json/list"
            page = until(
                lambda: next(p for p in json.load(urllib.request.urlopen(address, timeout=10)) if p["type"] == "page")
            )
            self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        except BaseException:
            self._process.kill()
            raise
        self._sent = 0
        self._events: list[dict] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)

    def open(self, url: str) -> None:
        self._send("Page.navigate", url=url)

    def emulate(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the page, and whether it is shown in the dark colour scheme."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def drag(self, left: float, top: float, right: float) -> None:
        """Press the mouse button at (left, top), move the mouse to (right, top) and release the button."""
        for kind, x in [("mousePressed", left), *(("mouseMoved", left + (right - left) * k / 10) for k in range(11))]:
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=top, button="left", buttons=1, clickCount=1)
        self._send("Input.dispatchMouseEvent", type="mouseReleased", x=right, y=top, button="left", clickCount=1)

    def forget(self) -> None:
        """Forget errors, requests and dialogs."""
        self.run("0")
        self._events.clear()

    def dialogs(self) -> list[str]:
        """Return the texts of the dialogs that the page has opened, which are closed at once."""
        self.run("0")
        return [about["message"] for about in self._params("Page.javascriptDialogOpening")]

    def errors(self) -> list[str]:
        """Return the errors that the console has shown, and uncaught exceptions."""
        self.run("0")  # receives what has happened until now
        exceptions = [about["exceptionDetails"] for about in self._params("Runtime.exceptionThrown")]
        return [
            *(about.get("exception", {}).get("description") or str(about) for about in exceptions),
            *(about["entry"]["text"] for about in self._params("Log.entryAdded") if about["entry"]["level"] == "error"),
            *(str(about["args"]) for about in self._params("Runtime.consoleAPICalled") if about["type"] == "error"),
        ]

    def requests(self) -> list[str]:
        """Return the addresses that the page has requested, without those of data that is in the page."""
        self.run("0")
        urls = [about["request"]["url"] for about in self._params("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def run(self, script: str):
        """Return the value of a JavaScript expression."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def until(self, script: str):
        """Wait until a JavaScript expression is truthy, and return its value."""
        return until(lambda: self.run(script) or 1 / 0)

    def screenshot(self, path: Path, left: float, top: float, width: float, height: float) -> None:
        """Write a part of the page as a PNG file."""
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", clip=clip)["data"]))

    def _params(self, method: str) -> list[dict]:
        return [event["params"] for event in self._events if event["method"] == method]

    def _send(self, method: str, **parameters) -> dict:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=300))
            if "method" in answer:
                self._events.append(answer)
                if answer["method"] == "Page.javascriptDialogOpening":  # Until it is closed, scripts wait.
                    self._socket.send(
                        json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})
                    )
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]


def until(look, seconds: float = 300):
    """Call `look` until it raises nothing, and return its result."""
    end = time.monotonic() + seconds
    while True:
        try:
            return look()
        except (ArithmeticError, IndexError, OSError, StopIteration):
            assert time.monotonic() < end, f"no result after {seconds} s"
            time.sleep(0.2)
