"""What our stream reader and aiohttp-sse-client do after a fault.

A server is healthy on its first connection, misbehaves on the second and is healthy from the third on.  A
client survives if it delivers an event from after the fault.  httpx-sse is not asked: it never reconnects,
and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from aiohttp_sse_client.client import EventSource

from tests.bench.stream_clients import Listener, our_reader
from tests.bench.stream_events import ATTACHED, HEAD, SMALL_BYTES, padded

Behaviour = Callable[["FaultyServer", asyncio.StreamWriter], Awaitable[None]]


async def healthy(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    """One event, then the end."""
    writer.write(HEAD + ATTACHED + padded("status_update_event", SMALL_BYTES))


async def refused(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    """Serve once more, then be away for a moment, so that the next connect is refused."""
    await healthy(server, writer)
    await server.away(0.3)


async def cut(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    """End in the middle of a chunk."""
    writer.write(HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\nff\r\nevent: sta")


async def unavailable(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    """Answer as a node without a leader does."""
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def long_line(server: FaultyServer, writer: asyncio.StreamWriter) -> None:
    """Send a line above aiohttp's limit."""
    writer.write(HEAD + ATTACHED + padded("deployment_info", 600 * 1024))


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
        """Refuse connections for a while."""
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


async def ours_after(fault: Behaviour, before: int) -> str:
    """What went wrong, or nothing."""
    listener = Listener(before + 1)
    async with FaultyServer(fault) as url, our_reader(url, listener):
        try:
            await asyncio.wait_for(listener.finished.wait(), 5)
        except TimeoutError:
            return "silence"
    return ""


async def theirs_after(fault: Behaviour, before: int) -> str:
    """What went wrong, or nothing."""
    quick = timedelta(milliseconds=5)
    try:
        async with (
            FaultyServer(fault) as url,
            asyncio.timeout(5),
            EventSource(url, reconnection_time=quick) as source,
        ):
            seen = 0
            while seen <= before:
                seen += (await anext(source)).type != "event_stream_attached"
    except Exception as error:
        return type(error).__name__
    return ""


async def survivals() -> tuple[dict[str, float], list[str]]:
    """`survives_<fault>_<client>` as 1 or 0, and a line for the screen about each fault."""
    numbers: dict[str, float] = {}
    lines = []
    for name, (fault, before) in FAULTS.items():
        ours, theirs = await ours_after(fault, before), await theirs_after(fault, before)
        numbers |= {
            f"survives_{name}_ours": float(not ours),
            f"survives_{name}_aiohttp_sse_client": float(not theirs),
        }
        outcomes = f"ours {ours or 'survives'}, aiohttp-sse-client {theirs or 'survives'}"
        lines.append(f"after {name}: {outcomes}")
    return numbers, lines
