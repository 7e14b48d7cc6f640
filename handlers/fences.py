"""Hosts that an operator has declared dead.

A lease leaves `bound` only when its host confirms that the port is gone.  A host that will never answer again
keeps its leases `stranded` for ever, unless a person asserts that nothing runs there any more: that is a
fence.  It is stored with its reason, so it outlives the daemon, and it changes three things:

  * where the host stays silent, a detach there counts as confirmed, and leases go their ordinary way;
    an answer of the host, should it come after all, always counts for more than the fence;
  * nothing is attached there;
  * a rebuild does not wait for it (but then rests every address that it could not prove free).

A fenced host that answers again keeps only the ports whose leases are still theirs; all others are detached
as soon as they are seen (`sweep`), because their addresses may be in other hands.  `unfence` does the same
first and lifts the fence when the host has confirmed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

import msgspec
import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable, check_reason
from mooring.core.model import BindingId, HostName, LeaseState
from mooring.core.specs import PortSpec
from mooring.core.store import PutFlag
from mooring.handlers.hosts import Hosts, detach_of
from mooring.handlers.marks import Mark, marks_in
from mooring.handlers.records import Records
from mooring.handlers.restart import hosts_of
from mooring.ipam.errors import PoolUnknown

log = structlog.get_logger(__name__)

_FLAG = "fenced:"
_IN_HAND = (LeaseState.BOUND, LeaseState.STRANDED)


class Fence(msgspec.Struct, frozen=True):
    """That a host is fenced, as it is stored."""

    reason: str
    at: float  # Unix seconds
    epoch: int = 0  # of the daemon that was told


def fences_in(flags: Mapping[str, str]) -> dict[HostName, Fence]:
    """Every fence among the stored flags, by host."""
    return {
        HostName(name.removeprefix(_FLAG)): msgspec.json.decode(value, type=Fence)
        for name, value in flags.items()
        if name.startswith(_FLAG)
    }


def lift_outdated(flags: Mapping[str, str], remembered: int) -> list[PutFlag]:
    """What has to be written so that no fence is left of an epoch up to `remembered`.

    In an old copy of the store a fence may stand that was lifted after the copy was made.
    """
    outdated = [host for host, fence in fences_in(flags).items() if fence.epoch <= remembered]
    for host in outdated:
        log.warning("fence not taken over", host=host, reason="it may have been lifted since; set it again")
    return [PutFlag(_FLAG + host, None) for host in outdated]


class Fences:
    """Sets and lifts fences, and keeps fenced hosts from holding what is no longer theirs."""

    def __init__(
        self,
        hosts: Hosts,
        records: Records,
        clock: Clock,
        inventory: Collection[str],
        wake: Callable[[BindingId], None],
    ) -> None:
        """`inventory`: the hosts that are asked; `wake` has a binding looked at again."""
        self._hosts = hosts
        self._records = records
        self._clock = clock
        self._inventory = frozenset(inventory)
        self._wake = wake

    def all(self) -> dict[HostName, Fence]:
        """Every fence, by host."""
        return fences_in(self._records.flags)

    async def fence(self, host: HostName, reason: str, *, force: bool = False) -> None:
        """An operator asserts that nothing runs on the host.

        `Refused` for a host that answers (unless `force`), that nobody knows, or that is fenced already.
        """
        self._check_known(host)
        if not reason.strip():
            raise Refused("a fence needs a reason, for those who find it later; give --reason TEXT")
        check_reason(reason.strip())
        if host in self._hosts.fenced:
            raise Refused(f"host {host} is fenced already ({self._hosts.fenced[host]})")
        if not force and await self._answers(host):
            raise Refused(
                f"host {host} answers, so it is alive; nothing was changed. Stop it first (power, or its "
                "switch port), so that nothing on it uses an address; or give --force if it runs nothing"
            )
        fence = Fence(reason.strip(), self._clock.now(), self._hosts.epoch)
        await self._records.commit([PutFlag(_FLAG + host, msgspec.json.encode(fence).decode())])
        self._hosts.fenced[host] = fence.reason
        log.warning("host fenced", host=host, reason=fence.reason, force=force)
        self._wake_all(host)

    async def unfence(self, host: HostName, *, clear: bool = True) -> None:
        """The host is in use again; what it has without a right to it is detached first.

        `clear` False only looks whether it answers: until a rebuild is over nobody knows what is whose.
        `Retryable` while it does not answer or has not let go; then it stays fenced.
        """
        if host not in self._hosts.fenced:
            raise Refused(f"host {host} is not fenced; `mooring hosts` shows which are")
        left = await self.clear(host) if clear else []
        if not clear:
            await self._marks(host)
        if left:
            ports = ", ".join(f"{mark.port.address} of {mark.port.instance}" for mark in left[:5])
            raise Retryable(f"host {host} still has {ports}; it stays fenced, try again")
        await self._records.commit([PutFlag(_FLAG + host, None)])
        self._hosts.fenced.pop(host, None)  # two operators may have asked at once
        log.warning("host unfenced", host=host)
        self._wake_all(host)

    async def sweep(self) -> None:
        """Look at every fenced host; those that answer lose what is not theirs."""
        await asyncio.gather(*(self._sweep(HostName(host)) for host in sorted(self._hosts.fenced)))

    async def _sweep(self, host: HostName) -> None:
        try:
            await self.clear(host)
        except (Retryable, Refused) as error:
            log.debug("a fenced host is silent", host=host, reason=str(error))

    async def clear(self, host: HostName) -> list[Mark]:
        """Detach every port whose address is not in the hand of its instance there; those that remain."""
        strangers = self._strangers(await self._marks(host, fence=True))
        if not strangers:
            return []
        log.warning("ports on a fenced host", host=host, addresses=[mark.port.address for mark in strangers])
        await self._quarantine(strangers)
        await self._hosts.do(
            host, [detach_of(mark.port, BindingId(mark.port.instance)) for mark in strangers]
        )
        left = self._strangers(await self._marks(host))
        await self._quarantine(strangers)  # from now on, since until now they were in use
        return left

    async def _quarantine(self, strangers: Collection[Mark]) -> None:
        """Their addresses answered there although nobody held them: they cool anew."""
        for port in (mark.port for mark in strangers):
            async with self._records.changing():
                reason = f"was still in use on {port.host}, which is fenced"
                try:
                    await self._records.commit(
                        self._records.book.plan_quarantine(
                            port.address, self._clock.now(), reason, again=True
                        )
                    )
                except PoolUnknown:
                    continue

    async def _marks(self, host: HostName, *, fence: bool = False) -> list[Mark]:
        answer = await self._hosts.marks(host, fence=fence)
        if answer.get("status") != "done":
            raise Retryable(f"host {host}: {answer.get('reason')}")
        return marks_in(host, answer)

    def _strangers(self, marks: Collection[Mark]) -> list[Mark]:
        return [mark for mark in marks if not self._is_rightful(mark.port)]

    def _is_rightful(self, port: PortSpec) -> bool:
        lease = self._records.book.by_address(port.address)
        if lease is None or lease.state not in _IN_HAND or lease.binding is None:
            return False
        binding = self._records.get(lease.binding)
        if binding is None or binding.instance != port.instance:
            return False
        return lease.host == port.host or port.host in hosts_of(binding)

    async def _answers(self, host: HostName) -> bool:
        try:
            await self._hosts.marks(host)
        except Retryable:
            return False
        except Refused as error:
            log.warning("a host cannot be asked", host=host, reason=str(error))
            return False
        return True

    def _check_known(self, host: HostName) -> None:
        if host in self._inventory or any(lease.host == host for lease in self._records.book.leases()):
            return
        raise Refused(
            f"host {host}: neither in the inventory nor in any lease; `mooring hosts` lists all hosts"
        )

    def _wake_all(self, host: HostName) -> None:
        for binding in self._records.all():
            if binding.host == host or host in hosts_of(binding):
                self._wake(binding.id)
