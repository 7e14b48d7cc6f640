"""The other end of the stream benchmark's sockets, in a process of its own.

A thread would share the interpreter with the client under test and slow each client down by another amount.
The sender serves one connection after the other: the answer's head and the attachment, then, when told to go
on, the whole sample as fast as the client takes it.  So a client's time begins with nothing in its buffers.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from contextlib import suppress
from types import TracebackType

from tests.bench.stream_events import ATTACHED, HEAD, Sample


class Sender:
    """Sends a sample to whoever connects to `url`. Start it before the event loop: it forks."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self._door = socket.create_server(("127.0.0.1", 0))
        self._heard, self._say = os.pipe()
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        self._process = multiprocessing.get_context("fork").Process(target=self._serve, daemon=True)

    def __enter__(self) -> Sender:
        self._process.start()
        self._door.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def go_on(self) -> None:
        """The attachment has arrived: send the rest to this connection."""
        os.write(self._say, b".")

    def _serve(self) -> None:
        while True:
            connection, _ = self._door.accept()
            with connection, suppress(OSError):
                connection.recv(65_536)  # a request this short comes in one piece
                connection.sendall(HEAD + ATTACHED)
                os.read(self._heard, 1)
                connection.sendall(self.sample.stream)
                connection.recv(1)  # until the client hangs up
