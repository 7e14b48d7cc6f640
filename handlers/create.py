"""A new instance takes a seat.

The seat comes first and alone: lease and binding are one transaction, before any effect.  From then on
the instance has an address whatever happens to us, and `converge` makes the world agree.

A new instance prefers the seat of one that leaves, so that a rolling upgrade without over-capacity ends
on the same addresses.  The leaving one gives its seat back only when its port is proven gone, which
takes a moment; so when an app already has as many seats as it may have instances
(`floor(instances * (1 + maximumOverCapacity))`), the newcomer waits for one: for as long as a host is at
work on removing the port of a leaving one, and otherwise `seat_wait_s`.  A host that cannot answer does not
keep a service down, because the failed attempt makes its lease `stranded`, which no longer counts.
"""

from __future__ import annotations

import math
from dataclasses import replace

from mooring.core.clock import Clock
from mooring.core.errors import Retryable
from mooring.core.labels import Claim
from mooring.core.model import App, AppId, Binding, BindingId, Instance, LeaseState
from mooring.core.store import PutBinding
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK
from mooring.ipam.book import Request

_CLOSED_S = 1.0  # how long to wait before asking again whether addresses may be given out


class Seats:
    """Gives instances their seats."""

    def __init__(self, records: Records, clock: Clock, seat_wait_s: float) -> None:
        self._records = records
        self._clock = clock
        self._seat_wait_s = seat_wait_s
        self._waiting: dict[BindingId, tuple[AppId, float]] = {}
        self.closed: str | None = None  # why no address may be given out now

    def close(self, reason: str) -> None:
        """Give out no address until `open`."""
        self.closed = reason

    def open(self) -> None:
        self.closed = None

    async def create(self, instance: Instance, app: App, claim: Claim) -> Binding:
        """The binding of an instance that had none. Raises `Retryable` while it has to wait for a seat."""
        assert instance.host is not None
        binding = Binding(
            id=BindingId(instance.id),
            app=instance.app,
            instance=instance.id,
            incarnation=instance.incarnation,
            task=instance.task,
            host=instance.host,
        )
        if claim.pool is None:
            return await self._records.save(binding)
        return await self.seat(binding, app, claim)

    async def seat(self, binding: Binding, app: App, claim: Claim) -> Binding:
        """Give a binding without an address a lease from the app's pool; both are stored together."""
        assert claim.pool is not None
        if self.closed is not None:
            raise Retryable(self.closed, _CLOSED_S)
        async with self._records.changing():
            self._wait_for_a_seat(binding, app)
            request = Request(binding.app, claim.pool, binding.id, binding.host, claim.pinned)
            lease, writes = self._records.book.plan_bind(request, self._clock.now())
            seated = replace(binding, slot=lease.slot, address=lease.address, pool=lease.pool)
            await self._records.commit([*writes, PutBinding(seated)])
        self._waiting.pop(binding.id, None)
        return seated

    def waiting(self, app: AppId) -> list[BindingId]:
        """Who waits for a seat of this app; to be woken when one is given back."""
        return [key for key, (waiting_for, _) in self._waiting.items() if waiting_for == app]

    def forget(self, key: BindingId) -> None:
        """The instance is gone; it waits no longer."""
        self._waiting.pop(key, None)

    def _wait_for_a_seat(self, binding: Binding, app: App) -> None:
        leases = self._records.book.by_app(binding.app)
        taken = [lease for lease in leases if lease.state is LeaseState.BOUND]
        idle = any(lease.state is LeaseState.IDLE for lease in leases)
        allowed = math.floor(app.instances * (1 + app.over_capacity))
        if idle or len(taken) < max(allowed, 1):
            self._waiting.pop(binding.id, None)
            return
        now = self._clock.monotonic()
        holders = (self._records.get(lease.binding) for lease in taken if lease.binding)
        if any(holder and _gives_up_its_port(holder) for holder in holders):
            self._waiting[binding.id] = (binding.app, now)  # its host is at work and will answer or fail
        since = self._waiting.setdefault(binding.id, (binding.app, now))[1]
        left = since + self._seat_wait_s - now
        if left > 0:
            reason = f"all {allowed} seats of {binding.app} are taken; waits for one"
            raise Retryable(reason, left)


def _gives_up_its_port(holder: Binding) -> bool:
    """Whether a seat's holder leaves and its host has neither confirmed that nor failed yet."""
    return holder.departing and not holder.sink(NETWORK).settled
