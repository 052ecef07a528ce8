"""Machines of a network on this one: Linux network namespaces, which are joined by a bridge.

The servers listen on the loopback interface, and are forwarded to the bridge's address, which no other machine reaches.
"""

import atexit
import os
import selectors
import shutil
import socket
import subprocess
import threading
from contextlib import suppress

BRIDGE, NETWORK = "prolific0", "10.231.77"  # MLflow answers private addresses only
ADDRESS = f"{NETWORK}.1"


def _ip(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.returncode == 0


def _routes() -> list[str]:
    """Return the routes of this machine to addresses of the network, except for the default route."""
    done = subprocess.run(["ip", "route", "show", "to", "match", f"{NETWORK}.0/24"], capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if not line.startswith("default")]


class Network:
    """A bridge with machines. All share the loopback interface if it is not allowed, or if it would hide a network.

    Attributes:
        real: Whether the machines have namespaces of their own.
        address: Address of the servers, as the machines see it.
    """

    def __init__(self):
        self._clean()
        atexit.register(self._clean)  # if the cluster fails before a test can close it
        self.real = shutil.which("ip") is not None and os.geteuid() == 0 and not _routes() and self._make()
        if not self.real:
            self._clean()
        self.address = ADDRESS if self.real else "127.0.0.1"
        self._forwarders: list[Forwarder] = []

    def _make(self) -> bool:
        """Make the bridge and, to see whether this is allowed, a machine."""
        commands = (
            ["link", "add", "name", BRIDGE, "type", "bridge"],
            ["address", "add", f"{ADDRESS}/24", "dev", BRIDGE],
            ["link", "set", BRIDGE, "up"],
            ["netns", "add", "prolific-1"],
            ["netns", "delete", "prolific-1"],
        )
        return all(_ip(*command, check=False) for command in commands)

    def forward(self, port: int) -> None:
        """Make a port of this machine's loopback interface reachable for the others."""
        if self.real:
            self._forwarders.append(Forwarder(port))

    def add(self, number: int) -> list[str]:
        """Add a machine, and return the beginning of commands that run there."""
        if not self.real:
            return []
        name = f"prolific-{number}"
        _ip("netns", "add", name)
        _ip("link", "add", f"prolific{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"prolific{number}", "master", BRIDGE, "up")
        _ip("-n", name, "address", "add", f"{NETWORK}.{10 + number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", name, "link", "set", device, "up")
        return ["ip", "netns", "exec", name]

    def connect(self, number: int, state: str) -> None:
        """Plug in ("up") or unplug ("down") the cable of a machine. Open connections get no answer, and no reset."""
        _ip("link", "set", f"prolific{number}", state)

    def close(self) -> None:
        for forwarder in self._forwarders:
            forwarder.close()
        self._clean()

    def _clean(self) -> None:
        """Remove the machines, also those of a test that was killed."""
        if shutil.which("ip") is None or os.geteuid() != 0:
            return
        for number in range(1, 10):
            _ip("link", "delete", f"prolific{number}", check=False)  # its namespace exists while it has processes
            _ip("netns", "delete", f"prolific-{number}", check=False)
        _ip("link", "delete", BRIDGE, check=False)


class Forwarder:
    """Thread that passes connections to the bridge's address on to the same port of the loopback interface."""

    def __init__(self, port: int):
        self._port, self._ended = port, threading.Event()
        self._listening = socket.create_server((ADDRESS, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            with suppress(OSError):
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), timeout=5) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, (client, server))
            ready.register(server, selectors.EVENT_READ, (server, client))
            while not self._ended.is_set():
                for key, _ in ready.select(1):
                    source, target = key.data
                    data = source.recv(65536)
                    if not data:
                        return
                    target.sendall(data)

    def close(self) -> None:
        self._ended.set()
        self._listening.close()
