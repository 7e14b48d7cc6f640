"""Removes the ports that containers have left behind, when nobody wants them any more.

Every observation of a host, whoever asked for it, is heard here.  What was seen dead twice, a grace apart,
and has no keeper (`handlers.dead_ports` has the table) is removed by a detach that names it, and that its
host turns away should it have come to life.  An address that a dead port had, and that nobody has, rests
before it is given out, as after any other port.

Suspicion is not stored: after a restart the grace begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Refused
from mooring.core.model import AppId, Binding
from mooring.handlers.dead_ports import Dead, Suspects, dead_in, keeper, removals, ripe, suspects_after
from mooring.handlers.hosts import Answer, Hosts
from mooring.handlers.records import Records

log = structlog.get_logger(__name__)


class Collector:
    """Keeps what is suspected of each host."""

    def __init__(
        self,
        hosts: Hosts,
        records: Records,
        clock: Clock,
        *,
        grace_s: float,
        waits: Callable[[AppId], bool],
        collected: Callable[[str], None],
    ) -> None:
        """`waits` says whether an app is paused; `collected` is told "port" or "device" for each."""
        self._hosts = hosts
        self._records = records
        self._clock = clock
        self._grace_s = grace_s
        self._waits = waits
        self._collected = collected
        self._suspects: dict[str, Suspects] = {}
        self._ripe: dict[str, list[Dead]] = {}
        hosts.observed = self.heard

    def heard(self, host: str, answer: Answer) -> None:
        """A host has told what it has."""
        now, dead = self._clock.monotonic(), dead_in(host, answer)
        self._suspects[host] = suspects_after(self._suspects.get(host, {}), dead, now)
        self._ripe[host] = ripe(dead, self._suspects[host], now, self._grace_s)

    async def collect(self, host: str) -> int:
        """Remove what is ripe there and has no keeper; how many things. Raises `Retryable` or `Refused`."""
        chosen = [one for one in self._ripe.pop(host, ()) if not self._kept(host, one)]
        if not chosen:
            return 0
        answers = await self._hosts.do(host, removals(chosen))
        gone = [one for one, answer in zip(chosen, answers, strict=True) if answer.get("changed")]
        for one in gone:
            log.warning("dead port collected", host=host, port=one.name, address=one.address,
                        instance=one.instance)  # fmt: skip
            self._collected("device" if one.port is None else "port")
            await self._quarantine(one.address)
        return len(gone)

    def _kept(self, host: str, dead: Dead) -> bool:
        if dead.port is not None and self._waits(AppId(dead.port.app)):
            return True
        lease = self._records.book.by_address(dead.address)
        reason = keeper(dead, host, self._speaking_of(dead), lease, self._hosts.epoch)
        if reason:
            log.debug("dead port kept", host=host, port=dead.name, address=dead.address, reason=reason)
        return bool(reason)

    def _speaking_of(self, dead: Dead) -> Sequence[Binding]:
        """Records that may have to do with it: all of its app; of a device only the address is known."""
        if dead.port is not None:
            mine = self._records.of_app(AppId(dead.port.app))
            lease = self._records.book.by_address(dead.address)
            holder = self._records.get(lease.binding) if lease is not None and lease.binding else None
            return [*mine, *([holder] if holder is not None and holder.app != dead.port.app else [])]
        return self._records.all()

    async def _quarantine(self, address: str) -> None:
        async with self._records.changing():
            book = self._records.book
            try:
                if book.by_address(address) is None:
                    reason = "a dead port of ours had it"
                    await self._records.commit(book.plan_quarantine(address, self._clock.now(), reason))
            except (Refused, ValueError):
                return  # no pool of ours holds it
