"""The lease book: who holds which address, and what the next step may be.

The book mirrors the store's leases in memory.  Planning is pure and synchronous: a `plan_*` method looks
at the book and returns the store writes that would make a step happen; it changes nothing.  The caller
commits the writes (together with the binding they belong to) and then tells the book:

    async with one_lock_per_book:
        lease, writes = book.plan_bind(request, now)
        await store.commit([*writes, PutBinding(...)])
        book.accept(writes)

Plan, commit and accept form one critical section: two plans made before either is accepted could choose
the same address.  The store would refuse the second (`LeaseConflict`), so the promise holds even then.

From which state a step leads where ("-": no writes, "!": `LeaseMismatch`; keep is `release(keep=True)`):

    |            | bind          | move  | strand   | unstrand | keep | release | conflict   | expire      |
    |------------|---------------|-------|----------|----------|------|---------|------------|-------------|
    | free       | bound         | !     | !        | !        | -    | -       | !          |             |
    | bound      | bound (1)     | bound | stranded | -        | idle | cooling | conflicted |             |
    | idle       | bound (2)     | !     | !        | !        | -    | cooling | conflicted | cooling (4) |
    | stranded   | bound (1)     | !     | -        | bound    | idle | cooling | conflicted |             |
    | cooling    | bound (3)     | !     | !        | !        | -    | -       | conflicted | free (4)    |
    | conflicted | never         | !     | !        | !        | cooling | cooling | -       |             |
    | reserved   | never         | !     | !        | !        | -    | -       | !          |             |

What an operator does to addresses and pools (`reserved`, pools made at run time) stands in `ipam.estate`.

    (1) the same binding only; stranded also needs the same host, because a stranded port may still answer
        where it was: on another host the binding gets another address
    (2) the lowest idle slot of the same app, as long as its pool still lets the address out
    (3) after `until`, when no address is without a lease, the longest cooled first
    (4) after `until`

Invariants: one address has one lease; a slot of an app has one lease, across pools, so that a seat's
name is unique while an app moves between pools (the store enforces it for each pool); generations rise,
also over the time an address was free, as long as this process remembers it: later a higher epoch
decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import NamedTuple

import msgspec

from mooring.core.model import AppId, BindingId, HostName, Lease, LeaseState, PoolName
from mooring.core.store import DropLease, Write
from mooring.ipam.errors import AddressRefused, AddressTaken, PoolExhausted, PoolForbidden
from mooring.ipam.estate import Estate
from mooring.ipam.mirror import by_end
from mooring.ipam.numbers import address_of, place_of
from mooring.ipam.pools import MOST, Pool

_MOST_AT_ONCE = 1000  # leases that time changes in one transaction


@dataclass(frozen=True, slots=True)
class Request:
    """A binding on a host that needs an address."""

    app: AppId
    pool: PoolName
    binding: BindingId
    host: HostName
    pinned: tuple[str, ...] = ()  # only these, in this order; empty: any of the pool


class Planned(NamedTuple):
    """The lease as it will be, and the writes that make it so (none if it is so already)."""

    lease: Lease
    writes: list[Write]


class LeaseBook(Estate):
    """All leases, and the steps they may take."""

    # What may happen next.

    def plan_bind(self, request: Request, now: float, ahead: int = 0) -> Planned:
        """An address for the binding: its own, else an idle seat of its app, else a new seat.

        A bound lease follows its binding to another host at once: the caller has made sure that the
        earlier host let go of it. `ahead` others wait longer for an address of the pool: as many are left
        for them; who asks for pinned addresses does not stand in that line. Raises `PoolUnknown`,
        `PoolForbidden`, `AddressRefused` (a pinned address is never given out) or `PoolExhausted`.
        """
        held = self._own(request)
        if held is not None:
            return self._rebind(held, request, now, "the same binding again")
        pool = self.pools.named(request.pool)
        if not pool.allows(request.app):
            allowed = ", ".join(pool.groups)
            raise PoolForbidden(f"pool {pool.name} is not for {request.app}, only for {allowed}")
        _refuse_pins(pool, request.pinned)
        idle = self._idle_seat(request, pool)
        if idle is not None:
            return self._rebind(idle, request, now, f"idle slot {idle.slot}")
        address = self._pinned(request, now) if request.pinned else self._fresh(request, pool, now, ahead)
        slot = self._unused_slot(request.app)
        seat = self._seated(address, pool.name, request, slot, now)
        return Planned(seat, self._step(seat, "bound", f"new slot {slot}"))

    def plan_move(self, address: str, host: HostName, now: float, reason: str) -> Planned:
        """A bound address goes to another host, which its earlier host has confirmed to be possible."""
        lease = self._in_state(address, LeaseState.BOUND)
        if lease.host == host:
            return Planned(lease, [])
        moved = lease.moved(LeaseState.BOUND, now, host=host)
        return Planned(moved, self._step(moved, "moved", reason))

    def plan_release(
        self, address: str, *, keep: bool, now: float, reason: str, binding: BindingId | None = None
    ) -> list[Write]:
        """The port is proven gone: keep the address for its seat (`idle`), or let it cool.

        It cools in any case if its pool has come to exclude or reserve it while it was in use. With
        `binding` nothing happens unless that binding still holds it. Repeating is harmless.
        """
        lease = self._leases.get(address)
        if lease is None or lease.state in (LeaseState.COOLING, LeaseState.RESERVED):
            return []
        if binding is not None and lease.binding != binding:
            return []
        if not keep or lease.slot is None or self._is_withdrawn(address):
            return self._cool(lease, now, reason)
        if lease.state is LeaseState.IDLE:
            return []
        idle = lease.moved(LeaseState.IDLE, now, binding=None, until=now + self._idle_ttl_s)
        return self._step(idle, "idle", reason)

    def plan_strand(
        self,
        address: str,
        now: float,
        reason: str,
        binding: BindingId | None = None,
        *,
        keeps_slot: bool = True,
    ) -> list[Write]:
        """The host cannot confirm that the port is gone. `binding` renames who is left behind there."""
        lease = self._in_state(address, LeaseState.BOUND, LeaseState.STRANDED)
        left = binding or lease.binding
        if lease.state is LeaseState.STRANDED and lease.binding == left:
            return []
        slot = lease.slot if keeps_slot else None
        stranded = lease.moved(LeaseState.STRANDED, now, binding=left, slot=slot)
        return self._step(stranded, "stranded", reason)

    def plan_unstrand(self, address: str, now: float, reason: str) -> list[Write]:
        """The host is back and the instance still lives there: bound again, to the same binding."""
        lease = self._in_state(address, LeaseState.BOUND, LeaseState.STRANDED)
        if lease.state is LeaseState.BOUND:
            return []
        return self._step(lease.moved(LeaseState.BOUND, now), "bound", reason)

    def plan_conflict(self, address: str, now: float, reason: str) -> list[Write]:
        """A stranger answers on the address: nobody gets it until it is released. `reason` says who."""
        lease = self._in_state(address, *(state for state in LeaseState if state is not LeaseState.RESERVED))
        if lease.state is LeaseState.CONFLICTED:
            return []
        lost = lease.moved(LeaseState.CONFLICTED, now, binding=None, slot=None, until=None, note=reason)
        return self._step(lost, "conflicted", reason)

    def plan_retire_app(self, app: AppId, now: float) -> list[Write]:
        """The app was deleted: its idle seats cool. Bound and stranded ones are released as they go."""
        idle = self._idle.get(app, ())
        return [write for lease in idle for write in self._cool(lease, now, "the app was deleted")]

    def plan_expire(self, now: float) -> list[Write]:
        """What time alone changes: cooled addresses become free, idle seats past their time cool.

        A thousand leases at most: more are due as long as this is not empty.
        """
        ending = (lease for ends in self._ends() for lease in _until(ends, now))
        writes: list[Write] = []
        for lease in islice(ending, _MOST_AT_ONCE):
            if lease.state is LeaseState.COOLING:
                writes.append(DropLease(lease.address, lease.generation))
                freed = msgspec.structs.replace(lease, since=now)
                writes.append(self._note(lease, freed, "free", "cooled long enough"))
            else:
                writes += self._cool(lease, now, "nobody took the seat in time")
        return writes

    def plan_adopt(
        self,
        address: str,
        request: Request,
        slot: int,
        generation: int,
        now: float,
        *,
        instead_of: BindingId | None = None,
    ) -> Planned:
        """A port that carries our mark was found: its address is bound, whatever the book said.

        `slot` and `generation` are what the mark says; a slot that another address has by now is
        replaced by an unused one. `request.pool` is ignored: the address decides. Raises `PoolUnknown`,
        or `AddressTaken` if the address is bound to another binding: then the caller must choose, and
        names the one that loses it (`instead_of`).
        """
        address = str(address_of(address))
        known = self._leases.get(address)
        if known is not None and known.state in (LeaseState.BOUND, LeaseState.STRANDED):
            if known.binding == request.binding:
                return self._rebind(known, request, now, "found on its host")
            if known.binding != instead_of:
                raise AddressTaken(f"{address} is {known.state} for {known.binding}, not {request.binding}")
        pool = self._pool_of(address)
        free_slot = self._seat_for(address, request.app, slot)
        seat = self._seated(address, pool.name, request, free_slot, now, generation)
        return Planned(seat, self._step(seat, "adopted", "found on its host"))

    def plan_quarantine(self, address: str, now: float, reason: str, *, again: bool = False) -> list[Write]:
        """An address without a lease that is not proven to be free starts to cool.

        With `again` one that is idle, or cools already, does so from the beginning: it was in use meanwhile.
        """
        address = str(address_of(address))
        pool = self._pool_of(address)
        known = self._leases.get(address)
        if known is not None:
            rests = known.state in (LeaseState.IDLE, LeaseState.COOLING)
            return self._cool(known, now, reason) if again and rests else []
        generation, end = self._last_generation(address) + 1, now + self._cooling_s
        empty = (None, None, None, None)
        cooling = Lease(address, pool.name, LeaseState.COOLING, *empty, generation, now, end)
        return self._step(cooling, "cooling", reason)

    # How a choice is made.

    def _own(self, request: Request) -> Lease | None:
        mine = self.held_by(request.app, request.binding)
        bound = (lease for lease in mine if lease.state is LeaseState.BOUND)
        stranded = (
            lease for lease in mine if lease.state is LeaseState.STRANDED and lease.host == request.host
        )
        return next(bound, None) or next(stranded, None)

    def _idle_seat(self, request: Request, pool: Pool) -> Lease | None:
        # The lowest slot first. The pool may have set an address aside since its seat was emptied.
        for lease in self._idle.get(request.app, ()):
            pinned = not request.pinned or lease.address in request.pinned
            if pinned and pool.refusal(address_of(lease.address)) is None:
                return lease
        return None

    def _pinned(self, request: Request, now: float) -> str:
        """The first of the listed addresses that nobody has, or else the one that cooled the longest."""
        free = next((address for address in request.pinned if address not in self._leases), None)
        if free is not None:
            return free
        known = (self._leases[address] for address in request.pinned)
        cooling = sorted((lease for lease in known if lease.state is LeaseState.COOLING), key=by_end)
        if cooling and _end(cooling[0]) <= now:
            return cooling[0].address
        held = f"every pinned address of {request.app} is held: {', '.join(request.pinned)}"
        raise _exhausted(held, cooling[0] if cooling else None, now)

    def _fresh(self, request: Request, pool: Pool, now: float, ahead: int) -> str:
        """The lowest free address of the pool, or else the one that cooled the longest."""
        shelf = self._shelves[pool.name]
        if self.available(pool.name, now) > ahead:
            position = shelf.taken.find(0)
            return shelf.cooling[0].address if position < 0 else pool.address_at(position)
        none_left = f"pool {pool.name} has no address left for {request.app} ({pool.size} in all)"
        warm = (lease for lease in shelf.cooling if _end(lease) > now)
        raise _exhausted(none_left, next(warm, None), now)

    def _unused_slot(self, app: AppId) -> int:
        slots = self._slots.get(app, bytearray())
        unused = slots.find(0)
        return len(slots) if unused < 0 else unused

    def _seat_for(self, address: str, app: AppId, slot: int) -> int:
        """The slot that a mark names, unless another address has it by now, or it is no slot at all."""
        known = self._leases.get(address)
        if known is not None and (known.app, known.slot) == (app, slot):
            return slot
        slots = self._slots.get(app, bytearray())
        possible = 0 <= slot < MOST and (slot >= len(slots) or slots[slot] == 0)
        return slot if possible else self._unused_slot(app)

    def _is_withdrawn(self, address: str) -> bool:
        """Whether its pool has come to set the address aside."""
        pool = self.pools.at(place_of(address))
        return pool is not None and pool.refusal(address_of(address)) is not None

    def _ends(self) -> Iterator[list[Lease]]:
        """The lists of what has an end, each sorted by it."""
        yield self._ending
        for shelf in self._shelves.values():
            yield shelf.cooling

    # How a choice becomes a lease.

    def _rebind(self, lease: Lease, request: Request, now: float, reason: str) -> Planned:
        if lease.state is LeaseState.BOUND and lease.host == request.host:
            return Planned(lease, [])
        event = "moved" if lease.state is LeaseState.BOUND else "bound"
        home = self.pools.at(place_of(lease.address))
        bound = lease.moved(
            LeaseState.BOUND,
            now,
            binding=request.binding,
            host=request.host,
            until=None,
            pool=lease.pool if home is None else home.name,  # it may have another name by now
        )
        return Planned(bound, self._step(bound, event, reason))

    def _seated(
        self, address: str, pool: PoolName, request: Request, slot: int, now: float, at_least: int = 0
    ) -> Lease:
        generation = max(at_least, self._last_generation(address) + 1)
        holder = (request.app, slot, request.binding, request.host)
        return Lease(address, pool, LeaseState.BOUND, *holder, generation=generation, since=now)


def _refuse_pins(pool: Pool, pinned: Sequence[str]) -> None:
    for address in pinned:
        refusal = pool.refusal(address_of(address))
        if refusal is not None:
            raise AddressRefused(f"pinned address {address} {refusal} (pool {pool.name})")


def _end(lease: Lease) -> float:
    assert lease.until is not None
    return lease.until


def _until(ends: Sequence[Lease], now: float) -> Iterator[Lease]:
    """Those whose time is over."""
    return takewhile(lambda lease: _end(lease) <= now, ends)


def _exhausted(what: str, soonest: Lease | None, now: float) -> PoolExhausted:
    """Says when the next address will have cooled, in words that stay the same until then."""
    if soonest is None:
        return PoolExhausted(what)
    end = datetime.fromtimestamp(_end(soonest), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return PoolExhausted(f"{what}; the next has cooled at {end}", _end(soonest) - now)
