"""A server that misbehaves on the wire, and a reader with a listener that writes everything down.

`FaultServer` speaks raw HTTP: each connection is answered by the next behaviour of its script, the last
one for ever.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from mooring.cext import Frame
from mooring.controller.access import Access
from mooring.controller.stream import Pace, StreamReader
from mooring.core.clock import SystemClock

PACE = Pace(silence_s=0.5, connect_s=0.4, answer_s=0.4, retry_base_s=0.01, retry_cap_s=0.05)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\nConnection: close\r\n\r\n"
ATTACHED = b'event: event_stream_attached\r\ndata: {"remoteAddress":"127.0.0.1"}\r\n\r\n'
Behaviour = Callable[["FaultServer", asyncio.StreamWriter], Awaitable[None]]


def event(name: str, data: bytes = b"{}") -> bytes:
    return b"event: %s\r\ndata: %s\r\n\r\n" % (name.encode(), data)


@dataclass
class Request:
    target: str
    headers: dict[str, str]


@dataclass
class FaultServer:
    """Answers connections by a script; `script[-1]` repeats."""

    script: list[Behaviour]
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    async def deserted(self) -> None:
        """Wait until every reader has hung up."""
        async with asyncio.timeout(5):
            while self._connections:
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            self.requests.append(Request(head[0].split()[1], {name.lower(): value for name, value in pairs}))
            behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            await behaviour(self, writer)
            await writer.drain()
        writer.close()
        self._connections.discard(connection)


def say(*pieces: bytes) -> Behaviour:
    """Send the pieces, each flushed on its own, and close."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)

    return behave


def serve(*pieces: bytes) -> Behaviour:
    """A healthy stream: attached, the pieces, then split heartbeats for ever."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        await say(OK, ATTACHED, *pieces)(server, writer)
        while True:
            await say(b"\r", b"\n")(server, writer)
            await asyncio.sleep(0.05)

    return behave


def stall(*pieces: bytes) -> Behaviour:
    """Send the pieces, then keep the connection open and silent."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        await say(*pieces)(server, writer)
        await asyncio.sleep(60)

    return behave


def drip(*pieces: bytes, drop: bytes = b"\r\n", every_s: float = 0.05) -> Behaviour:
    """Send the pieces, then a drop now and then, for ever."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        await say(*pieces)(server, writer)
        while True:
            await say(drop)(server, writer)
            await asyncio.sleep(every_s)

    return behave


def redirect(location: Callable[[], str]) -> Behaviour:
    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        target = server.requests[-1].target
        writer.write(
            f"HTTP/1.1 302 Found\r\nLocation: {location()}{target}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    return behave


def answer(status: str, content_type: str = "text/plain", body: bytes = b"no") -> Behaviour:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return say(head.encode() + body)


class Heard:
    """A listener that writes down what it hears, and can be waited for."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.frames: list[Frame] = []

    def attached(self) -> None:
        self.notes.append("attached")

    def event(self, frame: Frame) -> None:
        self.notes.append(frame.event)
        self.frames.append(frame)

    def lost(self, reason: str) -> None:
        self.notes.append(f"lost {reason}")

    def detached(self, reason: str) -> None:
        self.notes.append("detached")
        self.reason = reason

    async def until(self, note: str, times: int = 1, deadline_s: float = 5.0) -> None:
        async with asyncio.timeout(deadline_s):
            while self.notes.count(note) < times:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def servers(*scripts: list[Behaviour]) -> AsyncIterator[list[FaultServer]]:
    started = [FaultServer(list(script)) for script in scripts]
    for server in started:
        await server.start()
    try:
        yield started
    finally:
        for server in started:
            await server.stop()


@asynccontextmanager
async def reading(
    *endpoints: str, pace: Pace = PACE, heard: Heard | None = None, **access: str
) -> AsyncIterator[tuple[Heard, StreamReader]]:
    heard = heard or Heard()
    where = Access(endpoints, **access)  # type: ignore[arg-type]
    reader = StreamReader(where, heard, SystemClock(), random.Random(1), wanted=["a", "b"], pace=pace)
    task = asyncio.create_task(reader.run())
    try:
        yield heard, reader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
