"""Hosts that people are at work on.

Maintenance is an operator's word that a host may be switched off or answer nonsense for a while, and that it
is to be left alone until then.  It is stored with its reason, so it outlives the daemon.  Meanwhile

  * nothing is sent there: what its containers shall have is kept and waits, detaches too;
  * its silence is no news: it is neither counted as silent nor compared with the records;
  * leases there stay as they are: an instance that leaves keeps its address until the host confirms;
  * nobody waits for it: a new instance does not wait for a seat that lies there.  One that Marathon
    relaunches elsewhere takes another seat at once, and what it had is left behind there, stranded, as
    on a silent host (see `restart`), because its old port may still answer.

`resume` ends it: the host is looked at first, then all that waited goes on.  It differs from a fence in
what it asserts: a fence says that nothing runs there, so its addresses can be given away; maintenance says
nothing of the kind, so they cannot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec
import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Refused, check_reason
from mooring.core.model import HostName, SinkName
from mooring.core.store import PutFlag
from mooring.handlers.hosts import Hosts
from mooring.handlers.records import Records

log = structlog.get_logger(__name__)

_FLAG = "maintenance:"


class Maintained(msgspec.Struct, frozen=True):
    """That a host is in maintenance, as it is stored."""

    reason: str
    at: float  # Unix seconds


def maintained_in(flags: Mapping[str, str]) -> dict[HostName, Maintained]:
    """Every host in maintenance among the stored flags."""
    return {
        HostName(name.removeprefix(_FLAG)): msgspec.json.decode(value, type=Maintained)
        for name, value in flags.items()
        if name.startswith(_FLAG)
    }


def is_maintained(flags: Mapping[str, str], host: str | None) -> bool:
    """Whether people are at work on that host."""
    return host is not None and _FLAG + host in flags


def left_alone_in(records: Records) -> Counter[SinkName]:
    """How many bindings each sink does not show as wanted because their host is in maintenance."""
    if not any(name.startswith(_FLAG) for name in records.flags):
        return Counter()
    return Counter(
        name
        for binding in records.all()
        if is_maintained(records.flags, binding.host)
        for name, state in binding.sinks.items()
        if not state.settled
    )


class Maintenance:
    """Begins and ends it."""

    def __init__(self, hosts: Hosts, records: Records, clock: Clock, inventory: Collection[str]) -> None:
        """`inventory`: the hosts that there are."""
        self._hosts = hosts
        self._records = records
        self._clock = clock
        self._inventory = frozenset(inventory)
        hosts.maintained = {host: one.reason for host, one in self.all().items()}

    def all(self) -> dict[HostName, Maintained]:
        """Every host in maintenance."""
        return maintained_in(self._records.flags)

    async def begin(self, host: HostName, reason: str) -> None:
        """Leave the host alone from now on. What is in the air there still lands.

        `Refused` for a host that is not in the inventory, is fenced, or is in maintenance already.
        """
        if host not in self._inventory:
            raise Refused(f"host {host} is not in the inventory; `mooring hosts` lists all hosts")
        if host in self._hosts.fenced:
            raise Refused(f"host {host} is fenced ({self._hosts.fenced[host]}), and is left alone already")
        if host in self._hosts.maintained:
            raise Refused(f"host {host} is in maintenance already ({self._hosts.maintained[host]})")
        reason = reason.strip() or "no reason given"
        check_reason(reason)
        one = Maintained(reason, self._clock.now())
        await self._records.commit([PutFlag(_FLAG + host, msgspec.json.encode(one).decode())])
        self._hosts.maintained[host] = one.reason
        log.warning("host in maintenance", host=host, reason=one.reason)

    def check(self, host: HostName) -> None:
        """`Refused` for a host that is not in maintenance."""
        if host not in self._hosts.maintained:
            raise Refused(f"host {host} is not in maintenance; `mooring hosts` shows which are")

    async def end(self, host: HostName) -> None:
        """It is served again; nothing happens to a host that was not in maintenance."""
        if host in self._hosts.maintained:
            await self._records.commit([PutFlag(_FLAG + host, None)])
            self._hosts.maintained.pop(host, None)  # two operators may have asked at once
            log.warning("host served again", host=host)
