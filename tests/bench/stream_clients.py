"""The clients that the stream benchmark compares, each used as its documentation says.

| client | in memory | over a socket |
|---|---|---|
| ours | `Framer.feed`, configured as the reader does | `StreamReader`, up to the listener |
| aiohttp-sse-client | `EventSource` on an aiohttp stream that holds everything | `EventSource` |
| httpx-sse | `aiter_sse` on an httpx response made of the pieces | `aconnect_sse` on an `AsyncClient` |

"Decoded" is in memory, too: ours decodes to the fact that the controller works with, the others'
data goes through `json.loads`.

Every measurement returns seconds, and asserts how many events there were.  `texts` returns what the
events carried, so that the caller can see that all clients read the same.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, Protocol
from unittest import mock

import aiohttp
import httpx
from aiohttp.base_protocol import BaseProtocol
from aiohttp_sse_client.client import EventSource
from httpx_sse import EventSource as HttpxEventSource
from httpx_sse import aconnect_sse

from mooring.cext import DEFAULT_LIMIT, Frame, Framer
from mooring.controller import stream
from mooring.controller.access import Access
from mooring.controller.events import WANTED, decode
from mooring.controller.stream import Pace, StreamReader
from mooring.core.clock import SystemClock
from tests.bench.stream_events import Sample
from tests.bench.stream_sender import Sender

PATIENCE_S = 60.0
ROOMY = 16 * 1024 * 1024
PACE = Pace(retry_base_s=0.02, retry_cap_s=0.1)


class Client(Protocol):
    """One way to read an event stream."""

    async def texts(self, sample: Sample) -> list[str]:
        """The data of every event, read in memory."""

    async def in_memory(self, sample: Sample) -> float:
        """Seconds to cut the sample into events."""

    async def decoded(self, sample: Sample) -> float:
        """Seconds to cut and decode it."""

    async def over_socket(self, sender: Sender) -> float:
        """Seconds to read it through the client's own HTTP stack."""


# -- ours


class Listener:
    """Counts what our reader hands over."""

    def __init__(self, count: int, attached: Callable[[], None] = lambda: None) -> None:
        self.left = count
        self.finished = asyncio.Event()
        self.attached = attached
        self.ended_at = 0.0

    def event(self, frame: Frame) -> None:
        self.left -= 1
        if self.left == 0:
            self.ended_at = time.perf_counter()
            self.finished.set()

    def lost(self, reason: str) -> None:
        raise AssertionError(reason)

    def detached(self, reason: str) -> None:
        pass


@asynccontextmanager
async def our_reader(url: str, listener: Listener) -> AsyncIterator[StreamReader]:
    """Our reader, running."""
    reader = StreamReader(Access((url,)), listener, SystemClock(), random.Random(1), pace=PACE)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Ours:
    """Our reader with one of the two framers."""

    def __init__(self, framer: type[Framer]) -> None:
        self._framer = framer

    def _new(self) -> Framer:
        return self._framer(DEFAULT_LIMIT, wanted=WANTED)

    async def texts(self, sample: Sample) -> list[str]:
        framer = self._new()
        return [frame.data.decode() for piece in sample.pieces for frame in framer.feed(piece)]

    async def in_memory(self, sample: Sample) -> float:
        framer = self._new()
        seen = 0
        began = time.perf_counter()
        for piece in sample.pieces:
            seen += len(framer.feed(piece))
        took = time.perf_counter() - began
        assert seen == sample.count
        return took

    async def decoded(self, sample: Sample) -> float:
        framer = self._new()
        seen = 0
        began = time.perf_counter()
        for piece in sample.pieces:
            for frame in framer.feed(piece):
                seen += type(decode(frame)) is sample.fact
        took = time.perf_counter() - began
        assert seen == sample.count
        return took

    async def over_socket(self, sender: Sender) -> float:
        began = 0.0

        def attached() -> None:
            nonlocal began
            began = time.perf_counter()
            sender.go_on()

        listener = Listener(sender.sample.count, attached)
        with mock.patch.object(stream, "Framer", self._framer):
            async with our_reader(sender.url, listener) as reader:
                await asyncio.wait_for(listener.finished.wait(), PATIENCE_S)
        assert reader.attachments == 1, reader.last_failure
        return listener.ended_at - began


# -- the others

Opened = AbstractAsyncContextManager[AsyncIterator[Any]]


class Library:
    """A client that hands out events by `async for`, each with its text in `data`."""

    def __init__(self, in_memory: Callable[[Sample], Opened], over_socket: Callable[[str], Opened]) -> None:
        self._in_memory = in_memory
        self._over_socket = over_socket

    async def texts(self, sample: Sample) -> list[str]:
        async with self._in_memory(sample) as events:
            return [(await anext(events)).data for _ in range(sample.count)]

    async def in_memory(self, sample: Sample) -> float:
        async with self._in_memory(sample) as events:
            return await _timed(events, sample.count)

    async def decoded(self, sample: Sample) -> float:
        left = sample.count
        async with self._in_memory(sample) as events:
            began = time.perf_counter()
            async for event in events:
                json.loads(event.data)
                left -= 1
                if not left:
                    return time.perf_counter() - began
        raise AssertionError(f"{left} events are missing")

    async def over_socket(self, sender: Sender) -> float:
        async with asyncio.timeout(PATIENCE_S), self._over_socket(sender.url) as events:
            await anext(events)  # the attachment
            sender.go_on()
            return await _timed(events, sender.sample.count)


async def _timed(events: AsyncIterator[Any], left: int) -> float:
    """Seconds until so many events have come; a client at the end of a stream may not say so."""
    began = time.perf_counter()
    async for _ in events:
        left -= 1
        if not left:
            return time.perf_counter() - began
    raise AssertionError(f"{left} events are missing")


class _NoSocket(BaseProtocol):
    """What an aiohttp stream asks to pause while it holds much."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, resume_parser: bool = True) -> None:
        pass


def aiohttp_sse_client(read_bufsize: int = 2**16) -> Library:
    """`EventSource` with aiohttp's own read buffer, or a larger one (bytes)."""

    @asynccontextmanager
    async def in_memory(sample: Sample) -> AsyncIterator[AsyncIterator[Any]]:
        loop = asyncio.get_running_loop()
        content = aiohttp.StreamReader(_NoSocket(loop), read_bufsize, loop=loop)
        for piece in sample.pieces:
            content.feed_data(piece)
        content.feed_eof()
        async with aiohttp.ClientSession() as session:
            source = EventSource("http://127.0.0.1/", session=session)
            source._response = SimpleNamespace(status=200, content=content, close=lambda: None)
            yield source

    @asynccontextmanager
    async def over_socket(url: str) -> AsyncIterator[AsyncIterator[Any]]:
        async with (
            aiohttp.ClientSession(read_bufsize=read_bufsize) as session,
            EventSource(url, session=session) as source,
        ):
            yield source

    return Library(in_memory, over_socket)


def httpx_sse() -> Library:
    """The two libraries with their own settings; proxies of the environment are none of the measurement."""

    @asynccontextmanager
    async def in_memory(sample: Sample) -> AsyncIterator[AsyncIterator[Any]]:
        async def body() -> AsyncIterator[bytes]:
            for piece in sample.pieces:
                yield piece

        response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body())
        async with aclosing(HttpxEventSource(response).aiter_sse()) as events:
            yield events

    @asynccontextmanager
    async def over_socket(url: str) -> AsyncIterator[AsyncIterator[Any]]:
        async with (
            httpx.AsyncClient(trust_env=False) as client,
            aconnect_sse(client, "GET", url) as source,
            aclosing(source.aiter_sse()) as events,
        ):
            yield events

    return Library(in_memory, over_socket)
