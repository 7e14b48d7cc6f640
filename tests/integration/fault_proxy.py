"""A TCP proxy that stands between a reader and a healthy Marathon and does what networks do.

It carries bytes both ways until told otherwise.  Faults either end or freeze the connections that are
open, or befall those that come later; `heal` ends all of them.  What it carried is written down:
`requests` has the time and target of every request that began.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

_TCP_REPAIR = 19  # from linux/tcp.h: a socket closed in this mode says nothing to its peer

Rewrite = Callable[[bytes], bytes]


class FaultProxy:
    """Carries connections to a port on this machine."""

    def __init__(self, upstream: int) -> None:
        """Nothing is carried before `listen`."""
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._budget: int | None = None  # bytes towards readers until the connection is cut
        self._rewrite: Rewrite | None = None
        self.port = 0
        self.requests: list[tuple[float, str]] = []  # monotonic seconds, target

    async def listen(self, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections, always on the same port."""
        self._tls = tls
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Be gone: open connections are reset, new ones refused, until `listen`."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def close(self) -> None:
        """Be gone for good, with all that runs here."""
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every open connection."""
        for client in self._clients:
            client.transport.abort()

    def cut_after(self, count: int) -> None:
        """Close the connection on which the last of so many more bytes went towards a reader."""
        self._budget = count

    def stall(self) -> None:
        """Carry nothing, on old connections and new ones, until `heal`; old ones never recover."""
        self._flowing.clear()

    def vanish(self) -> None:
        """Let every open connection end here without a word: its other end stays half open. Needs root."""
        for client in self._clients:
            client.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
            client.transport.abort()

    def rewrite(self, rewrite: Rewrite) -> None:
        """From now on answers pass through this, piece by piece; open connections are reset."""
        self._rewrite = rewrite
        self.cut()

    def heal(self) -> None:
        """Be an ordinary proxy again."""
        self._flowing = asyncio.Event()  # who waits for the old one waits for ever
        self._flowing.set()
        self._budget = self._rewrite = None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._clients.add(writer)
        with suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            ways = (self._up(reader, up_writer), self._down(up_reader, writer))
            tasks = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in tasks:
                    one.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                up_writer.transport.abort()
        writer.close()
        self._clients.discard(writer)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            await self._flowing.wait()
            if piece.startswith(b"GET "):
                self.requests.append((time.monotonic(), piece.split()[1].decode()))
            writer.write(piece)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            await self._flowing.wait()
            if self._rewrite is not None:
                piece = self._rewrite(piece)
            if self._budget is not None:
                piece, self._budget = piece[: self._budget], self._budget - len(piece)
            writer.write(piece)
            await writer.drain()
            if self._budget is not None and self._budget <= 0:
                writer.close()
                self.heal()
                return
