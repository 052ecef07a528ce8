"""Relay to a Prefect server that falls silent."""

import contextlib
import socket
import threading


class Silence(threading.Thread):
    """Relay to a server that stops answering when it is told to, and counts the requests that it then gets."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self.target = int(url.split(":")[2].split("/")[0])
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.silent, self.unanswered = threading.Event(), 0
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/api"

    def run(self):
        while True:
            try:
                client = self.listening.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, target, requests in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pump, args=(source, target, requests), daemon=True).start()

    def pump(self, source, target, requests: bool):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.silent.is_set():
                    target.sendall(data)
                elif requests and b"/set_state " in data:
                    self.unanswered += 1
            target.shutdown(socket.SHUT_WR)
