"""An engine that is one moment behind: it names a process id that has become another container's since.

It stands between the host program and the real engine, on a socket of its own, and passes every request on.
The first look at the chosen container is answered with the other one's process id and with a sandbox that
cannot be opened, as where the engine lives in another mount namespace; what follows is the engine's own word.
"""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class _Engine(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class StaleEngine(socketserver.ThreadingUnixStreamServer):
    """Answers about `container` with the process id `pid` as often as `times` says."""

    daemon_threads = True

    def __init__(self, path: Path, engine: str, container: str, pid: int, times: int) -> None:
        super().__init__(str(path), _Handler)
        self.engine = engine
        self.container = container
        self.pid = pid
        self.left = times
        self.looks = 0

    def told(self, described: dict[str, Any]) -> dict[str, Any]:
        """What is said of the container now."""
        self.looks += 1
        described["NetworkSettings"]["SandboxKey"] = "/nowhere"
        if self.left > 0:
            self.left -= 1
            described["State"]["Pid"] = self.pid
        return described


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StaleEngine

    def do_GET(self) -> None:
        connection = _Engine(self.server.engine)
        connection.request("GET", self.path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 200 and self.path == f"/containers/{self.server.container}/json":
            body = json.dumps(self.server.told(json.loads(body))).encode()
        connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *words: object) -> None:
        """Nothing."""


@contextmanager
def stale_engine(path: Path, engine: str, container: str, pid: int, times: int = 1) -> Iterator[StaleEngine]:
    """Serve on that socket meanwhile."""
    with StaleEngine(path, engine, container, pid, times) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
