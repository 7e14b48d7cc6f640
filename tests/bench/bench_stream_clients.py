"""Our stream reader beside aiohttp-sse-client: `python -m tests.bench.bench_stream_clients`.

Speed.  The same bytes are cut into events by our framer and by `EventSource`, in memory and over a
loopback socket that a thread fills: many events of 405 bytes (a status update) and one of 5 MB (a
deployment of an old Marathon).  `EventSource` gets a read buffer large enough for the latter; with
aiohttp's own it fails, which is one of the faults below.  Medians of several rounds, taken in turns.

Faults.  A server misbehaves once on its second connection and is healthy from the third on.  A client
survives if it delivers an event from after the fault.

Prints a table and writes `build/bench/stream_clients.json`; `docs/benchmarks.md` explains the keys.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import structlog
from aiohttp.base_protocol import BaseProtocol
from aiohttp_sse_client.client import EventSource

from mooring.cext import IMPLEMENTATION, Frame, Framer
from mooring.controller.access import Access
from mooring.controller.stream import Pace, StreamReader
from mooring.core.clock import SystemClock

REPORT = Path(__file__).parents[2] / "build" / "bench" / "stream_clients.json"
ROUNDS = 7
SMALL_COUNT = 20_000
PIECE = 65_536
ROOMY = 16 * 1024 * 1024
PACE = Pace(retry_base_s=0.02, retry_cap_s=0.1)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\nConnection: close\r\n\r\n"
ATTACHED = b"event: event_stream_attached\r\ndata: {}\r\n\r\n"


def event(kind: str, size: int) -> bytes:
    """One event of exactly `size` bytes on the wire."""
    frame = b"event: " + kind.encode() + b"\r\ndata: %s\r\n\r\n"
    return frame % (b'{"' + b"x" * (size - len(frame) - 2) + b'":1}')


SMALL = event("status_update_event", 405)
BIG = event("deployment_info", 5_000_000)


# -- in memory


def ours_in_memory(stream: bytes, count: int) -> float:
    framer = Framer()
    began = time.perf_counter()
    seen = sum(len(framer.feed(stream[at : at + PIECE])) for at in range(0, len(stream), PIECE))
    took = time.perf_counter() - began
    assert seen == count
    return took


async def theirs_in_memory(stream: bytes, count: int) -> float:
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), ROOMY, loop=loop)
    for at in range(0, len(stream), PIECE):
        content.feed_data(stream[at : at + PIECE])
    content.feed_eof()
    async with aiohttp.ClientSession() as session:
        source = EventSource("http://127.0.0.1/", session=session)
        source._response = SimpleNamespace(status=200, content=content, close=lambda: None)
        began = time.perf_counter()
        for _ in range(count):
            await source.__anext__()
        return time.perf_counter() - began


# -- over a socket


class Listener:
    """Counts what our reader hands over, and says when `count` events have come."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.finished = asyncio.Event()
        self.began = 0.0
        self.took = 0.0

    def attached(self) -> None:
        self.began = self.began or time.perf_counter()

    def event(self, frame: Frame) -> None:
        self.left -= 1
        if self.left == 0:
            self.took = time.perf_counter() - self.began
            self.finished.set()

    def lost(self, reason: str) -> None:
        raise AssertionError(reason)

    def detached(self, reason: str) -> None:
        pass


def send_once(stream: bytes) -> str:
    """A thread that serves one connection with the attachment and then `stream`; returns its URL."""
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = door.accept()
        with door, connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(HEAD + ATTACHED)
            connection.sendall(stream)
            connection.recv(1)  # until the client hangs up

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{door.getsockname()[1]}"


@asynccontextmanager
async def our_reader(url: str, listener: Listener) -> AsyncIterator[None]:
    reader = StreamReader(Access((url,)), listener, SystemClock(), random.Random(1), pace=PACE)
    task = asyncio.create_task(reader.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ours_over_socket(stream: bytes, count: int) -> float:
    listener = Listener(count)
    async with our_reader(send_once(stream), listener):
        await asyncio.wait_for(listener.finished.wait(), 60)
    return listener.took


async def theirs_over_socket(stream: bytes, count: int) -> float:
    url = send_once(stream)
    async with (
        aiohttp.ClientSession(read_bufsize=ROOMY) as session,
        EventSource(url, session=session) as source,
    ):
        await source.__anext__()  # the attachment
        began = time.perf_counter()
        for _ in range(count):
            await source.__anext__()
        return time.perf_counter() - began


# -- faults

Behaviour = Callable[["FaultyServer", asyncio.StreamWriter], Awaitable[None]]


async def healthy(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + ATTACHED + event("status_update_event", 405))


async def refused(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    """Serve once more, then be away for a moment, so that the next connect is refused."""
    await healthy(server, writer)
    await server.away(0.3)


async def cut(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\nff\r\nevent: sta")


async def unavailable(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def long_line(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + ATTACHED + event("deployment_info", 600 * 1024))


class FaultyServer:
    """Healthy on its first connection, faulty on the second, healthy ever after."""

    def __init__(self, fault: Behaviour) -> None:
        self._script = [healthy, fault]
        self._port = 0
        self._door: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        await self._open()
        return f"http://127.0.0.1:{self._port}"

    async def __aexit__(self, *problem: object) -> None:
        if self._door is not None:
            self._door.close()

    async def _open(self) -> None:
        self._door = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._door.sockets[0].getsockname()[1]

    async def away(self, seconds: float) -> None:
        assert self._door is not None
        self._door.close()
        asyncio.get_running_loop().call_later(seconds, lambda: asyncio.ensure_future(self._open()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            behaviour = self._script.pop(0) if self._script else healthy
            await behaviour(self, writer)
            await writer.drain()
        writer.close()


FAULTS: dict[str, tuple[Behaviour, int]] = {  # and how many events come up to and including the fault
    "refused": (refused, 2),
    "cut": (cut, 1),
    "503": (unavailable, 1),
    "long_line": (long_line, 2),
}


async def ours_survives(fault: Behaviour, before: int) -> str | None:
    listener = Listener(before + 1)
    async with FaultyServer(fault) as url, our_reader(url, listener):
        try:
            await asyncio.wait_for(listener.finished.wait(), 5)
        except TimeoutError:
            return "silence"
    return None


async def theirs_survives(fault: Behaviour, before: int) -> str | None:
    quick = timedelta(milliseconds=5)
    try:
        async with (
            FaultyServer(fault) as url,
            asyncio.timeout(5),
            EventSource(url, reconnection_time=quick) as source,
        ):
            seen = 0
            while seen <= before:
                seen += (await source.__anext__()).type != "event_stream_attached"
    except Exception as error:
        return type(error).__name__
    return None


# -- the report


async def measure() -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, stream, count, unit in (
        ("small_us", SMALL * SMALL_COUNT, SMALL_COUNT, 1e6),
        ("big_ms", BIG, 1, 1e3),
    ):
        rounds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            took = {
                "ours": ours_in_memory(stream, count),
                "sse_client": await theirs_in_memory(stream, count),
                "ours_socket": await ours_over_socket(stream, count),
                "sse_client_socket": await theirs_over_socket(stream, count),
            }
            for key, seconds in took.items():
                rounds.setdefault(key, []).append(seconds / count * unit)
        for key, values in rounds.items():
            numbers[f"{name}_{key}"] = round(statistics.median(values), 3)
    for fault, (behaviour, before) in FAULTS.items():
        for client, survives in (("ours", ours_survives), ("sse_client", theirs_survives)):
            problem = await survives(behaviour, before)
            numbers[f"survives_{fault}_{client}"] = float(problem is None)
            if problem:
                print(f"  {client} after {fault}: {problem}")
    return numbers


def table(numbers: dict[str, float], rows: Sequence[str]) -> str:
    lines = [f"{'':<28}{'ours':>10}{'sse-client':>12}{'ratio':>8}"]
    for row in rows:
        tail = "_socket" if row.endswith("_socket") else ""
        stem = row.removesuffix("_socket")
        ours, theirs = numbers[f"{stem}_ours{tail}"], numbers[f"{stem}_sse_client{tail}"]
        ratio = f"{theirs / ours:8.1f}" if not row.startswith("survives") else ""
        lines.append(f"{row:<28}{ours:>10.2f}{theirs:>12.2f}{ratio}")
    return "\n".join(lines)


def main() -> None:
    logging.disable(logging.CRITICAL)  # EventSource reports each fault, asyncio each torn connection
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    numbers = asyncio.run(measure())
    rows = [
        "small_us",
        "small_us_socket",
        "big_ms",
        "big_ms_socket",
        *(f"survives_{fault}" for fault in FAULTS),
    ]
    print(f"framer in {IMPLEMENTATION}; medians of {ROUNDS}\n{table(numbers, rows)}")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
