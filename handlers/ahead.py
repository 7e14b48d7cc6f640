"""What is done for a container before it runs, because Marathon names its host some moments earlier.

When an instance is being started on a host, the host gets a play that stands by with its connection open, and
the wire there is asked for the address that the instance will get: that of its seat, or else the one that the
lease book would give out now.  If nobody answers, the attach that follows within `FRESH_S` need not ask
again, which takes longer than all the rest of it.

Nothing is decided here and nothing stored.  Whatever is wrong (the instance ends up elsewhere or with another
address, the host is silent) the attach goes its usual way and asks for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mooring.core.clock import Clock
from mooring.core.errors import MooringError

FRESH_S = 20.0
_MOST = 4096  # of what is remembered; the oldest goes

Addresses = tuple[str, ...]  # the leased one and its partner; empty: not known
Ask = Callable[[str, Addresses, int | None], Awaitable[bool]]


class Ahead:
    """Prepares hosts, and remembers which addresses were silent there."""

    def __init__(self, prepare: Callable[[str], Awaitable[None]], is_silent: Ask, clock: Clock) -> None:
        """`is_silent` asks the wire of a host for addresses in a VLAN; both raise what a host may raise."""
        self._prepare = prepare
        self._is_silent = is_silent
        self._clock = clock
        self._silent: dict[tuple[str, Addresses], float] = {}
        self._expected: dict[str, None] = {}
        self._asking: dict[tuple[str, Addresses], asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, task: str, host: str, addresses: Addresses, vlan: int | None) -> None:
        """A container is about to start on the host; `addresses`: what it will have, if that can be told."""
        if task in self._expected:
            return
        self._expected[task] = None
        if len(self._expected) > _MOST:
            del self._expected[next(iter(self._expected))]
        work = asyncio.ensure_future(self._get_ready(host, addresses, vlan))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        self._asking[host, addresses] = work
        work.add_done_callback(lambda ended: self._no_longer_asking(host, addresses, ended))

    async def answered(self, host: str, addresses: Addresses) -> None:
        """Wait for an answer that is on its way; the next play of the host would have to wait for it too."""
        asking = self._asking.get((host, addresses))
        if asking is not None:
            await asyncio.wait([asking])

    def _no_longer_asking(self, host: str, addresses: Addresses, ended: asyncio.Future[None]) -> None:
        if self._asking.get((host, addresses)) is ended:
            del self._asking[host, addresses]

    def was_silent(self, host: str, addresses: Addresses) -> bool:
        """Whether nobody answered when the wire of the host was asked for these just now; told once."""
        asked_at = self._silent.pop((host, addresses), None)
        return asked_at is not None and self._clock.monotonic() - asked_at <= FRESH_S

    def forget(self, address: str) -> None:
        """The address comes to stand somewhere: what was heard of it before is no longer true."""
        for key in [key for key in self._silent if address in key[1]]:
            del self._silent[key]

    async def close(self) -> None:
        """End what is under way."""
        for work in tuple(self._tasks):
            work.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _get_ready(self, host: str, addresses: Addresses, vlan: int | None) -> None:
        try:
            await self._prepare(host)
            if addresses and await self._is_silent(host, addresses, vlan):
                self._silent[host, addresses] = self._clock.monotonic()
                if len(self._silent) > _MOST:
                    del self._silent[next(iter(self._silent))]
        except MooringError:
            return  # the attach will meet it as well, and say so
