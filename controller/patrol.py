"""Looks at each host's ports by itself, more often than at everything.

A container that is started anew behind Marathon's back, a switch that lost a port, a dead container's port:
they are found by an observation of their host, which costs one small play.  So each host has a round of
its own, at a moment of its own:

    1. look      its ports are compared with the records, differences are repaired     verify
    2. collect   what has been seen dead twice is removed                              collector

A slow host is waited for by nobody.  One that was silent is looked at the moment it is heard again, whoever
hears it, and everything that waits for it is taken up at once: what was left there is detached first of all.
To hear it soon, a silent host is asked more often.  Fenced hosts are swept (see `fences`), and those
in maintenance are left alone until `resume`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from mooring.controller.collector import Collector
from mooring.controller.verify import Verifier
from mooring.core.clock import Clock
from mooring.core.errors import Fatal, Refused, Retryable
from mooring.core.model import BindingId, HostName
from mooring.handlers.hosts import Hosts, NetworkSink
from mooring.handlers.maintenance import Maintenance
from mooring.handlers.records import Records
from mooring.handlers.restart import hosts_of

log = structlog.get_logger(__name__)

_SILENT_AGAIN_S = 10.0


class Patrol:
    """One round for each host of the inventory."""

    def __init__(
        self,
        hosts: Hosts,
        inventory: Sequence[str],
        records: Records,
        clock: Clock,
        chance: random.Random,
        verifier: Verifier,
        collector: Collector,
        maintenance: Maintenance,
        *,
        every_s: float,
        wake: Callable[[BindingId], None],
    ) -> None:
        """`wake` has a binding looked at again."""
        self._hosts = hosts
        self._inventory = tuple(inventory)
        self._records = records
        self._clock = clock
        self._chance = chance
        self._verifier = verifier
        self._collector = collector
        self._maintenance = maintenance
        self._every_s = every_s
        self._wake = wake
        self._called = {host: asyncio.Event() for host in inventory}
        hosts.attendance.returned.append(self.returned)

    async def run(self) -> None:
        """All rounds, for ever. Ends only by a `Fatal` error."""
        async with asyncio.TaskGroup() as group:
            for host in self._inventory:
                group.create_task(self._round(host), name=f"round of {host}")

    def returned(self, host: str) -> None:
        """A host that was silent has answered: look at it now, and take up what waits for it."""
        if host in self._called:
            log.info("host answers again", host=host)
            self._called[host].set()
            self.take_up(host)

    def take_up(self, host: str) -> None:
        """Have everything looked at that has to do with a host."""
        for binding in self._records.all():
            if binding.host == host or host in hosts_of(binding):
                self._wake(binding.id)

    async def resume(self, host: HostName) -> bool:
        """End maintenance: look at the host first, then let all that waited go on; whether it answers.

        `Refused` for a host that is not in maintenance.
        """
        self._maintenance.check(host)
        try:
            answers = (await self._hosts.marks(host)).get("status") == "done"
        except (Retryable, Refused) as error:
            log.warning("a host is silent after maintenance", host=host, reason=str(error))
            answers = False
        await self._maintenance.end(host)
        if answers:
            await self.look(host)
        self.take_up(host)
        return answers

    async def look(self, host: str) -> None:
        """Steps 1 and 2 for one host, if they make sense now."""
        if host in self._hosts.fenced or host in self._hosts.maintained:
            return
        try:
            found = await self._verifier.look_at(NetworkSink(self._hosts, [host]))
            if not found.unread:
                await self._collector.collect(host)
        except (Retryable, Refused) as error:
            log.debug("host not looked at", host=host, reason=str(error))

    async def _round(self, host: str) -> None:
        await self._clock.sleep(self._chance.uniform(0.0, self._every_s))
        while True:
            self._called[host].clear()
            try:
                await self.look(host)
            except Fatal:
                raise
            except Exception as error:
                # The next round tries again; an exception here must not end the daemon.
                log.exception("looking at a host failed", host=host, error=repr(error))
            await self._pause(host)

    async def _pause(self, host: str) -> None:
        """Until the next round, or until the host is heard after a silence."""
        silent = host in self._hosts.attendance.silences
        rest_s = min(self._every_s, _SILENT_AGAIN_S) if silent else self._every_s
        waits = [
            asyncio.ensure_future(self._clock.sleep(rest_s)),
            asyncio.ensure_future(self._called[host].wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
