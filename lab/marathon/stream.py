"""GET /v2/events, byte for byte as the real Marathon answers it.

aiohttp would add chunking, its own headers and a keep-alive, so the handler writes to the transport
itself and returns a response that has nothing left to send.  The headers go out first; only then
does the subscription exist and `event_stream_attached` is published, so a reader that waits for that
event misses nothing after it.  EOF is the only end mark.

Writing waits until the kernel has taken everything: a reader that does not read blocks its stream's
writer, events pile up behind it, and the bus closes the stream at its limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from email.utils import formatdate

from aiohttp import ClientError, web
from aiohttp.abc import AbstractStreamWriter

from mooring.lab.marathon import events
from mooring.lab.marathon.bus import Bus, Subscription
from mooring.lab.marathon.wire import HEAD, HEARTBEAT

FLUSH_GAP_S = 0.001  # long enough that a reader usually meets the lone CR

log = logging.getLogger(__name__)


class _Sent(web.StreamResponse):
    """A response whose bytes have already been written to the transport."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class EventStreams:
    """Serves event streams from the bus."""

    def __init__(self, bus: Bus, heartbeat_s: float, buffer_bytes: int | None) -> None:
        """Beat every `heartbeat_s` seconds; `buffer_bytes` limits the kernel's send buffer."""
        self._bus = bus
        self._heartbeat_s = heartbeat_s
        self._buffer_bytes = buffer_bytes

    async def serve(self, request: web.Request, leader: str) -> web.StreamResponse:
        """Answer one GET /v2/events; returns when the stream is over."""
        # A list, or a parameter after the type, does not count.
        if "text/event-stream" not in request.headers.getall("Accept", []):
            raise web.HTTPMethodNotAllowed("GET", ["GET"])
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the reader left before its stream began")
        self._tune(transport)
        pipe = _Pipe(request, transport, self._bus.flowing)
        with contextlib.suppress(ConnectionError):  # a reader may leave at any time
            date = formatdate(usegmt=True).encode()
            await pipe.write(HEAD % (date, f"http://{leader}".encode()))
            await self._feed(pipe, request)
        response = _Sent()
        response.force_close()
        return response

    def _tune(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=0)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and self._buffer_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)

    async def _feed(self, pipe: _Pipe, request: web.Request) -> None:
        remote = request.remote or ""
        subscription = self._bus.subscribe(frozenset(request.query.getall("event_type", [])))
        self._bus.publish(events.stream("event_stream_attached", remote))
        writing = asyncio.create_task(self._write(pipe, subscription))
        closing = asyncio.create_task(subscription.broken())
        try:
            await asyncio.wait({writing, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.done():
                log.info("closing the stream of %s: cut, or it reads too slowly", remote)
                pipe.abort()
        finally:
            closing.cancel()
            writing.cancel()
            self._bus.unsubscribe(subscription)
            self._bus.publish(events.stream("event_stream_detached", remote))
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await writing

    async def _write(self, pipe: _Pipe, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + self._heartbeat_s
        while True:
            if frames := await subscription.batch(max(0.0, beat_at - loop.time())):
                await pipe.write(frames)
            elif subscription.closed:
                return
            if loop.time() >= beat_at:
                for byte in HEARTBEAT:
                    await pipe.write(byte)
                    await asyncio.sleep(FLUSH_GAP_S)
                beat_at = loop.time() + self._heartbeat_s


class _Pipe:
    """The way to one reader."""

    def __init__(self, request: web.Request, transport: asyncio.Transport, flowing: asyncio.Event) -> None:
        self._writer = request.writer
        self._transport = transport
        self._flowing = flowing

    async def write(self, chunk: bytes) -> None:
        """Write and wait until the kernel has it; while streams are stalled, wait before writing."""
        await self._flowing.wait()
        if self._transport.is_closing():
            raise ConnectionResetError("the reader has left")
        self._transport.write(chunk)
        try:
            await self._writer.drain()
        except ClientError as error:  # aiohttp's name for a lost connection is no ConnectionError
            raise ConnectionResetError("the reader has left") from error

    def abort(self) -> None:
        """Close at once; what the reader has not taken is lost."""
        self._transport.abort()
