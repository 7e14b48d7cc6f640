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

    (1) the same binding only; stranded also needs the same host, because a stranded port may still answer
        where it was: on another host the binding gets another address
    (2) the lowest idle slot of the same app, as long as the configuration still lets the address out
    (3) after `until`, when no address is without a lease, the longest cooled first
    (4) after `until`

Invariants: one address has one lease; a slot of an app has one lease, across pools, so that a seat's
name is unique while an app moves between pools (the store enforces it for each pool); generations rise,
also over the time an address was free, as long as this process remembers it: later a higher epoch
decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple

from mooring.core.model import AppId, BindingId, HostName, InstanceId, Lease, LeaseState, PoolName
from mooring.core.store import DropLease, Note, PutLease, Write
from mooring.ipam.errors import (
    AddressRefused,
    AddressTaken,
    LeaseMismatch,
    PoolExhausted,
    PoolForbidden,
    PoolUnknown,
)
from mooring.ipam.mirror import Mirror
from mooring.ipam.pools import Pool, Pools

DAY_S = 86_400.0


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


class LeaseBook(Mirror):
    """All leases, and the steps they may take."""

    def __init__(
        self,
        pools: Pools,
        leases: Iterable[Lease] = (),
        *,
        idle_ttl_s: float = 7 * DAY_S,
        cooling_s: float = 300.0,
        dns_ttl_s: float = 0.0,
    ) -> None:
        """`idle_ttl_s` keeps an empty seat's address; `cooling_s` or the longer `dns_ttl_s` quarantines."""
        super().__init__(pools, leases)
        self._idle_ttl_s = idle_ttl_s
        self._cooling_s = max(cooling_s, dns_ttl_s)

    # What may happen next.

    def plan_bind(self, request: Request, now: float) -> Planned:
        """An address for the binding: its own, else an idle seat of its app, else a new seat.

        A bound lease follows its binding to another host at once: the caller has made sure that the
        earlier host let go of it. Raises `PoolUnknown`, `PoolForbidden`, `AddressRefused` (a pinned
        address is never given out) or `PoolExhausted`.
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
        address = self._fresh(request, pool, now)
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

        With `binding` nothing happens unless that binding still holds it. Repeating is harmless.
        """
        lease = self._leases.get(address)
        if lease is None or lease.state in (LeaseState.COOLING, LeaseState.RESERVED):
            return []
        if binding is not None and lease.binding != binding:
            return []
        if not keep or lease.slot is None:
            return self._cool(lease, now, reason)
        if lease.state is LeaseState.IDLE:
            return []
        idle = lease.moved(LeaseState.IDLE, now, binding=None, until=now + self._idle_ttl_s)
        return self._step(idle, "idle", reason)

    def plan_strand(
        self, address: str, now: float, reason: str, binding: BindingId | None = None
    ) -> list[Write]:
        """The host cannot confirm that the port is gone. `binding` renames who is left behind there."""
        lease = self._in_state(address, LeaseState.BOUND, LeaseState.STRANDED)
        left = binding or lease.binding
        if lease.state is LeaseState.STRANDED and lease.binding == left:
            return []
        stranded = lease.moved(LeaseState.STRANDED, now, binding=left)
        return self._step(stranded, "stranded", reason)

    def plan_unstrand(self, address: str, now: float, reason: str) -> list[Write]:
        """The host is back and the instance still lives there: bound again, to the same binding."""
        lease = self._in_state(address, LeaseState.BOUND, LeaseState.STRANDED)
        if lease.state is LeaseState.BOUND:
            return []
        return self._step(lease.moved(LeaseState.BOUND, now), "bound", reason)

    def plan_conflict(self, address: str, now: float, reason: str) -> list[Write]:
        """A stranger answers on the address: nobody gets it until it is released."""
        lease = self._in_state(address, *(state for state in LeaseState if state is not LeaseState.RESERVED))
        if lease.state is LeaseState.CONFLICTED:
            return []
        lost = lease.moved(LeaseState.CONFLICTED, now, binding=None, slot=None, until=None)
        return self._step(lost, "conflicted", reason)

    def plan_retire_app(self, app: AppId, now: float) -> list[Write]:
        """The app was deleted: its idle seats cool. Bound and stranded ones are released as they go."""
        idle = [lease for lease in self.by_app(app) if lease.state is LeaseState.IDLE]
        return [write for lease in idle for write in self._cool(lease, now, "the app was deleted")]

    def plan_expire(self, now: float) -> list[Write]:
        """What time alone changes: cooled addresses become free, idle seats past their time cool."""
        writes: list[Write] = []
        for lease in self._leases.values():
            if lease.until is None or lease.until > now:
                continue
            if lease.state is LeaseState.COOLING:
                drop = DropLease(lease.address, lease.generation)
                writes += [drop, _note(lease, now, "free", "cooled long enough")]
            elif lease.state is LeaseState.IDLE:
                writes += self._cool(lease, now, "nobody took the seat in time")
        return writes

    def plan_adopt(self, address: str, request: Request, slot: int, generation: int, now: float) -> Planned:
        """A port that carries our mark was found: its address is bound, whatever the book said.

        `slot` and `generation` are what the mark says; a slot that another address has by now is
        replaced by an unused one. `request.pool` is ignored: the address decides. Raises `PoolUnknown`,
        or `AddressTaken` if the address is bound to another binding: then the caller must choose.
        """
        known = self._leases.get(address)
        if known is not None and known.state in (LeaseState.BOUND, LeaseState.STRANDED):
            if known.binding != request.binding:
                raise AddressTaken(f"{address} is {known.state} for {known.binding}, not {request.binding}")
            return self._rebind(known, request, now, "found on its host")
        pool = self._pool_of(address)
        free_slot = self._seat_for(address, request.app, slot)
        seat = self._seated(address, pool.name, request, free_slot, now, generation)
        return Planned(seat, self._step(seat, "adopted", "found on its host"))

    def plan_quarantine(self, address: str, now: float, reason: str) -> list[Write]:
        """An address without a lease that is not proven to be free starts to cool."""
        if address in self._leases:
            return []
        cooling = Lease(
            address,
            self._pool_of(address).name,
            LeaseState.COOLING,
            app=None,
            slot=None,
            binding=None,
            host=None,
            generation=self._freed.get(address, 0) + 1,
            since=now,
            until=now + self._cooling_s,
        )
        return self._step(cooling, "cooling", reason)

    # How a choice is made.

    def _own(self, request: Request) -> Lease | None:
        mine = self._by_binding.get(request.binding, {}).values()
        bound = (lease for lease in mine if lease.state is LeaseState.BOUND)
        stranded = (
            lease for lease in mine if lease.state is LeaseState.STRANDED and lease.host == request.host
        )
        return next(bound, None) or next(stranded, None)

    def _idle_seat(self, request: Request, pool: Pool) -> Lease | None:
        # The configuration may have set an address aside since its seat was emptied.
        seats = (
            lease
            for lease in self._by_app.get(request.app, {}).values()
            if lease.state is LeaseState.IDLE
            and lease.pool == pool.name
            and (not request.pinned or lease.address in request.pinned)
            and pool.refusal(IPv4Address(lease.address)) is None
        )
        return min(seats, key=lambda lease: lease.slot or 0, default=None)

    def _fresh(self, request: Request, pool: Pool, now: float) -> str:
        if request.pinned:
            free = next((address for address in request.pinned if address not in self._leases), None)
        else:
            free = self._lowest_free(pool)
        if free is not None:
            return free
        cooling = [
            lease
            for lease in self._leases.values()
            if lease.state is LeaseState.COOLING
            and (lease.address in request.pinned if request.pinned else lease.pool == pool.name)
            and pool.refusal(IPv4Address(lease.address)) is None
        ]
        first = min(cooling, key=lambda lease: (lease.until or 0.0, IPv4Address(lease.address)), default=None)
        if first is None or first.until is None:
            raise PoolExhausted(_exhausted(request, pool))
        if first.until > now:
            raise PoolExhausted(_exhausted(request, pool), first.until - now)
        return first.address

    def _unused_slot(self, app: AppId) -> int:
        used = {lease.slot for lease in self._by_app.get(app, {}).values()}
        return next(slot for slot in range(len(used) + 1) if slot not in used)

    def _seat_for(self, address: str, app: AppId, slot: int) -> int:
        others = self._by_app.get(app, {}).values()
        occupied = any(lease.slot == slot and lease.address != address for lease in others)
        return self._unused_slot(app) if occupied else slot

    def _pool_of(self, address: str) -> Pool:
        pool = self.pools.containing(_number(address))
        if pool is None:
            raise PoolUnknown(f"no pool contains {address}: add one that does, or detach the port")
        return pool

    def _in_state(self, address: str, *states: LeaseState) -> Lease:
        lease = self._leases.get(address)
        if lease is None or lease.state not in states:
            found = "free" if lease is None else str(lease.state)
            raise LeaseMismatch(f"{address} is {found}, and would have to be {' or '.join(states)}")
        return lease

    # How a step is written down.

    def _rebind(self, lease: Lease, request: Request, now: float, reason: str) -> Planned:
        if lease.state is LeaseState.BOUND and lease.host == request.host:
            return Planned(lease, [])
        event = "moved" if lease.state is LeaseState.BOUND else "bound"
        bound = lease.moved(LeaseState.BOUND, now, binding=request.binding, host=request.host, until=None)
        return Planned(bound, self._step(bound, event, reason))

    def _seated(
        self, address: str, pool: PoolName, request: Request, slot: int, now: float, at_least: int = 0
    ) -> Lease:
        generation = max(at_least, (self._generation(address) or self._freed.get(address, 0)) + 1)
        holder = (request.app, slot, request.binding, request.host)
        return Lease(address, pool, LeaseState.BOUND, *holder, generation=generation, since=now)

    def _cool(self, lease: Lease, now: float, reason: str) -> list[Write]:
        cooling = lease.moved(LeaseState.COOLING, now, binding=None, slot=None, until=now + self._cooling_s)
        return self._step(cooling, "cooling", reason)

    def _step(self, lease: Lease, event: str, reason: str) -> list[Write]:
        """The write that replaces what the book has, and a note that says who was concerned."""
        before = self._leases.get(lease.address)
        concerned = lease if lease.binding is not None or before is None else before
        replaces = None if before is None else before.generation
        return [PutLease(lease, replaces), _note(concerned, lease.since, event, reason)]


def _refuse_pins(pool: Pool, pinned: Sequence[str]) -> None:
    for address in pinned:
        refusal = pool.refusal(_number(address))
        if refusal is not None:
            raise AddressRefused(f"pinned address {address} {refusal} (pool {pool.name})")


def _number(address: str) -> IPv4Address:
    try:
        return IPv4Address(address)
    except AddressValueError as error:
        raise AddressRefused(f"{address!r} is not an IPv4 address") from error


def _exhausted(request: Request, pool: Pool) -> str:
    if request.pinned:
        return f"every pinned address of {request.app} is held: {', '.join(request.pinned)}"
    return f"pool {pool.name} has no address left for {request.app} ({pool.size} in all)"


def _note(lease: Lease, at: float, event: str, reason: str) -> Note:
    # A binding is named after its instance; what it left on a lost host has "~<n>" behind that.
    instance = None if lease.binding is None else InstanceId(lease.binding.partition("~")[0])
    return Note(at, event, reason, lease.address, lease.app, lease.slot, instance, lease.host)
