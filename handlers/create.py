"""A new instance takes a seat.

The seat comes first and alone: lease and binding are one transaction, before any effect.  From then on
the instance has an address whatever happens to us, and `converge` makes the world agree.

A new instance prefers the seat of one that leaves, so that a rolling upgrade without over-capacity ends
on the same addresses.  The leaving one gives its seat back only when its port is proven gone, which
takes a moment; so when an app already has as many seats as it may have instances
(`floor(instances * (1 + maximumOverCapacity))`), the newcomer waits for one: for as long as a host is at
work on removing the port of a leaving one, and otherwise `seat_wait_s`.  A host that cannot answer does not
keep a service down, because the failed attempt makes its lease `stranded`, which no longer counts; nor does
one in maintenance, where what leaves is not counted either.

Where the pool has no address left, the instance stands in line for one (`ipam.lines`) and asks again every
now and then; the janitor wakes the first in line when an address has become free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.labels import Claim
from mooring.core.model import App, AppId, Binding, BindingId, Instance, Lease, LeaseState, PoolName
from mooring.core.specs import PortSpec, Spec
from mooring.core.store import PutBinding
from mooring.handlers.records import Records
from mooring.handlers.restart import waits_for_maintenance
from mooring.handlers.wants import NETWORK
from mooring.ipam.book import Planned, Request
from mooring.ipam.errors import PoolExhausted
from mooring.ipam.lines import AGAIN_S, Lines

_CLOSED_S = 1.0  # how long to wait before asking again whether addresses may be given out


class Seats:
    """Gives instances their seats."""

    def __init__(self, records: Records, clock: Clock, seat_wait_s: float) -> None:
        self._records = records
        self._clock = clock
        self._seat_wait_s = seat_wait_s
        self._waiting: dict[BindingId, tuple[AppId, float]] = {}
        self._lines = Lines()
        self.closed: str | None = None  # why no address may be given out now
        self.unsure: str | None = None  # why a port that nobody knows of may have an address that is in hand
        self.proven: dict[BindingId, str] = {}  # addresses that were found on a host: none else can have them

    def close(self, reason: str, *, sure: bool = False) -> None:
        """Give out no address until `open`. `sure`: of those in hand it is known where they are."""
        self.closed, self.unsure = reason, None if sure else reason

    def open(self) -> None:
        self.closed = self.unsure = None

    def objection(self, binding: Binding, wanted: Spec | None) -> str:
        """Why what is wanted of the network may not be shown now; "" if it may.

        As long as not every host was heard, a seat may have moved since an old copy of the store was made.
        Where its port was found it has not: an address goes to another host only when the former one has let
        go.  So a seat whose port was not found waits.
        """
        if self.unsure is None or not isinstance(wanted, PortSpec):
            return ""
        if self.proven.get(binding.id) == wanted.address:
            return ""
        return (
            f"{wanted.address} is not attached on {wanted.host}, because a port may have it elsewhere: "
            f"{self.unsure}"
        )

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
            self.forget(binding.id)  # it may have waited for a seat
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
            lease, writes = self._plan(request)
            seated = replace(binding, slot=lease.slot, address=lease.address, pool=lease.pool)
            await self._records.commit([*writes, PutBinding(seated)])
        self.forget(binding.id)
        return seated

    def likely(self, instance: Instance, claim: Claim) -> str | None:
        """The address that the instance would get if it asked for a seat now; None if that cannot be told."""
        if claim.pool is None or instance.host is None or self.closed is not None:
            return None
        key = BindingId(instance.id)
        request = Request(instance.app, claim.pool, key, instance.host, claim.pinned)
        try:
            return self._records.book.plan_bind(request, self._clock.now()).lease.address
        except (Retryable, Refused):
            return None

    def waiting(self, app: AppId) -> list[BindingId]:
        """Who waits for a seat of this app; to be woken when one is given back."""
        keys = [key for key, (waiting_for, _) in self._waiting.items() if waiting_for == app]
        return [*keys, *(key for key in self._lines.first_of_app(app) if key not in keys)]

    def is_waiting(self, key: BindingId) -> bool:
        """Whether it has no seat because all that it might take are taken."""
        return key in self._waiting or key in self._lines

    def next_served(self) -> list[BindingId]:
        """Who stands first in line for the addresses that can be given out now."""
        book, now, wall = self._records.book, self._clock.monotonic(), self._clock.now()
        return [
            key
            for pool in self._lines.lengths()
            if pool in book.pools
            for key in self._lines.first(pool, book.available(pool, wall), now)
        ]

    def in_line(self) -> Mapping[PoolName, int]:
        """How many wait for an address of each pool; pools for which nobody waits may be missing."""
        return self._lines.lengths()

    def forget(self, key: BindingId) -> None:
        """It waits no longer: it has a seat, needs none, or is gone."""
        self._waiting.pop(key, None)
        self._lines.leave(key)

    def _plan(self, request: Request) -> Planned:
        """The seat, unless others have waited longer for it: then the place in line is kept."""
        book, now, wall = self._records.book, self._clock.monotonic(), self._clock.now()
        most = book.available(request.pool, wall) if request.pool in book.pools else 0
        try:
            return book.plan_bind(request, wall, self._lines.ahead(request.binding, request.pool, now, most))
        except PoolExhausted as error:
            in_turn = not request.pinned  # for the others any address will do
            self._lines.ask(request.binding, request.app, request.pool, now, in_turn=in_turn)
            is_next = not in_turn or self._lines.first(request.pool, 1, now) == [request.binding]
            soon = error.after_s if is_next and error.after_s is not None else AGAIN_S
            raise PoolExhausted(str(error), min(soon, AGAIN_S)) from error

    def _wait_for_a_seat(self, binding: Binding, app: App) -> None:
        book = self._records.book
        taken = [lease for lease in book.holders(binding.app) if self._may_come_free(lease)]
        allowed = math.floor(app.instances * (1 + app.over_capacity))
        if book.has_idle_seat(binding.app) or len(taken) < max(allowed, 1):
            self._waiting.pop(binding.id, None)
            return
        now = self._clock.monotonic()
        holders = (self._holder(lease) for lease in taken)
        if any(holder and _gives_up_its_port(holder) for holder in holders):
            self._waiting[binding.id] = (binding.app, now)  # its host is at work and will answer or fail
        since = self._waiting.setdefault(binding.id, (binding.app, now))[1]
        left = since + self._seat_wait_s - now
        if left > 0:
            reason = f"all {allowed} seats of {binding.app} are taken; waits for one"
            raise Retryable(reason, left)

    def _may_come_free(self, lease: Lease) -> bool:
        """Whether it is in a hand that may give it back: not where a host is silent or left alone."""
        if lease.state is not LeaseState.BOUND:
            return False
        holder = self._holder(lease)
        return holder is None or not (holder.departing and waits_for_maintenance(self._records, holder))

    def _holder(self, lease: Lease) -> Binding | None:
        return self._records.get(lease.binding) if lease.binding else None


def _gives_up_its_port(holder: Binding) -> bool:
    """Whether a seat's holder leaves and its host has neither confirmed that nor failed yet."""
    return holder.departing and not holder.sink(NETWORK).settled
