"""The same instance in a new container: it keeps its seat.

On the same host nothing more is needed: the new port replaces the old one in one transaction.  On
another host the address may only go with the container once the old host has confirmed that the old port is
gone; `converge` detaches there first.  If the old host cannot answer in time, the container must not
wait for ever: what lies on the old host is left behind in a record of its own (`<instance>~<n>`), with the
lease, which is now `stranded`; the instance takes another seat.  The record is worked on until the
old host answers or is fenced.  For a host in maintenance nobody waits at all.
"""

from __future__ import annotations

from dataclasses import replace

from mooring.core.clock import Clock
from mooring.core.model import Binding, BindingId, HostName, Instance, LeaseState, SinkState
from mooring.core.specs import PortSpec
from mooring.core.store import PutBinding, Write
from mooring.handlers.maintenance import is_maintained
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK, without_seat


class Restarts:
    """Moves seats to new containers."""

    def __init__(self, records: Records, clock: Clock, seat_wait_s: float) -> None:
        self._records = records
        self._clock = clock
        self._seat_wait_s = seat_wait_s
        self._moving_since: dict[BindingId, float] = {}

    async def restart(self, binding: Binding, instance: Instance) -> Binding:
        """Point the binding at the newest container of its instance."""
        assert instance.host is not None
        moved = replace(
            binding,
            incarnation=instance.incarnation,
            task=instance.task,
            host=instance.host,
            departing=False,
        )
        if lies_elsewhere(moved):
            self._moving_since.setdefault(binding.id, self._clock.monotonic())
        return await self._records.save(moved)

    async def follow(self, binding: Binding) -> None:
        """The lease follows its binding to another host, once nothing is left on the earlier one."""
        if binding.address is None or binding.departing or lies_elsewhere(binding):
            return
        self._moving_since.pop(binding.id, None)
        lease = self._records.book.by_address(binding.address)
        if lease is None or (lease.state is LeaseState.BOUND and lease.host == binding.host):
            return
        async with self._records.changing():
            book, now = self._records.book, self._clock.now()
            if lease.state is LeaseState.STRANDED:
                await self._records.commit(book.plan_unstrand(binding.address, now, "its instance is back"))
            moved = book.plan_move(binding.address, binding.host, now, f"{binding.instance} was relaunched")
            await self._records.commit(moved.writes)

    def gives_up_waiting(self, binding: Binding) -> bool:
        """Whether the old host had its time to confirm; asked each time a detach there has failed."""
        if not lies_elsewhere(binding):
            return False
        if any(
            is_maintained(self._records.flags, host) for host in hosts_of(binding) if host != binding.host
        ):
            return True
        now = self._clock.monotonic()
        return now - self._moving_since.setdefault(binding.id, now) >= self._seat_wait_s

    async def leave_behind(self, binding: Binding) -> Binding:
        """Split off what lies on hosts that cannot answer.

        If that has the address of the present seat, the seat goes with it, and the rest has none afterwards.
        A port of an earlier seat, which is in another hand by now, goes without one.
        """
        state = binding.sink(NETWORK)
        there = tuple(spec for spec in state.shown if _host(spec) != binding.host)
        here = tuple(spec for spec in state.shown if spec not in there)
        with_seat = any(isinstance(spec, PortSpec) and spec.address == binding.address for spec in there)
        rest = without_seat(binding) if with_seat else binding
        rest = rest.with_sink(NETWORK, SinkState(None, None, here, state.generation + 1))
        left = replace(
            binding if with_seat else without_seat(binding),
            id=self._records.spare_id(binding.instance),
            host=HostName(_host(there[0]) or binding.host),
            departing=True,
            sinks={NETWORK: SinkState(None, there[0], there[1:], state.generation + 1)},
        )
        async with self._records.changing():
            writes = await self._strand(left, binding.host)
            await self._records.commit([*writes, PutBinding(left), PutBinding(rest)])
        self._moving_since.pop(binding.id, None)
        return rest

    async def _strand(self, left: Binding, now_on: HostName) -> list[Write]:
        """What has the lease of what is left behind stay there; the caller holds `changing()`."""
        if left.address is None:
            return []
        reason = f"{left.instance} moved to {now_on}; {left.host} cannot confirm that its port is gone"
        now = self._clock.now()
        await name_the_host(self._records, left, now, reason)
        return list(self._records.book.plan_strand(left.address, now, reason, left.id))

    def forget(self, key: BindingId) -> None:
        self._moving_since.pop(key, None)


async def name_the_host(records: Records, binding: Binding, now: float, reason: str) -> None:
    """Have a lease name a host on which its port may still be, before it is stranded there.

    An attach that was tried on another host may have happened, although the lease has not followed yet.
    The caller holds `changing()`.
    """
    there = hosts_of(binding)
    lease = records.book.by_address(binding.address) if binding.address else None
    if lease is not None and lease.state is LeaseState.BOUND and there and lease.host not in there:
        moved = records.book.plan_move(lease.address, there[0], now, reason)
        await records.commit(moved.writes)


def hosts_of(binding: Binding) -> list[HostName]:
    """The hosts on which a port of this binding may be."""
    return [HostName(host) for spec in binding.sink(NETWORK).shown if (host := _host(spec)) is not None]


def waits_for_maintenance(records: Records, binding: Binding) -> bool:
    """Whether all that is left of its ports lies on hosts in maintenance."""
    hosts = hosts_of(binding)
    return bool(hosts) and all(is_maintained(records.flags, host) for host in hosts)


def lies_elsewhere(binding: Binding) -> bool:
    """Whether a port of this binding may still exist on a host it has left."""
    return any(_host(spec) != binding.host for spec in binding.sink(NETWORK).shown)


def _host(spec: object) -> str | None:
    return spec.host if isinstance(spec, PortSpec) else None
