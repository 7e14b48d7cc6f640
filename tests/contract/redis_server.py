"""A real Redis for the store tests, on a socket in a directory of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """Started by `start`; what it wrote survives `kill` and the next start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, durable: Sequence[str] = DURABLE) -> None:
        """Start it and wait until it answers; `more` are further settings."""
        settings = ("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory))
        argv = ["redis-server", *settings, "--save", "", *durable, *more]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while b"PONG" not in self.cli("ping"):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"redis-server did not start: {(self.directory / 'log').read_text()}")
            time.sleep(0.02)

    def cli(self, *command: str) -> bytes:
        """What `redis-cli` prints for a command."""
        argv = ["redis-cli", "-s", str(self.socket), *command]
        return subprocess.run(argv, capture_output=True, check=False).stdout

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, as often as one likes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def needs_redis() -> None:
    """Skip the test where there is no Redis to ask."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (make packages, as root)")
