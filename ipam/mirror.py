"""The mirror: the store's leases in memory, indexed for planning.

Every question of a plan has an index that answers it without a walk through all leases:

    which lease has an address           `_leases`, a dict
    what a binding holds                 `_held`, for each app a list sorted by binding
    the lowest idle seat of an app       `_idle`, for each app a list sorted by slot
    the lowest unused slot of an app     `_slots`, for each app a byte for each slot
    the lowest free address of a pool    `Shelf.taken`, a byte for each address
    the address that cooled the longest  `Shelf.cooling`, for each pool a list sorted by its end
    what time alone changes next         the fronts of `Shelf.cooling` and `_ending`
    how full a pool is                   counters of its shelf

Memory decides the form: there may be a hundred thousand leases, so each costs one dict entry, one place in a
list and one byte, and the names that many share (app, pool, host) are interned.  A pool's shelf holds the
leases whose *address* is in the pool, whatever name their pool had when they were made; what no pool has is
on a shelf of its own.  Only `accept` changes the mirror, after the store has taken the writes; the store
enforces the same invariants on its own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from sys import intern
from typing import Any

from msgspec.structs import force_setattr

from mooring.core.errors import ConfigRefused
from mooring.core.model import AppId, BindingId, Lease, LeaseState, PoolName, PoolSpec
from mooring.core.store import DropLease, DropPool, PutLease, PutPool, Write
from mooring.ipam.numbers import place_of
from mooring.ipam.pools import Pool, Pools, Usage

_Sorted = tuple[list[Lease], Callable[[Lease], Any]]
_TAKEN = (LeaseState.BOUND, LeaseState.STRANDED)
_until, _address = attrgetter("until"), attrgetter("address")


def _binding(lease: Lease) -> BindingId:
    return lease.binding or BindingId("")


def _slot(lease: Lease) -> int:
    return lease.slot or 0


def by_end(lease: Lease) -> tuple[float, int]:
    """Sorts by the end of a lease's time, and by address where that is the same."""
    assert lease.until is not None
    return lease.until, place_of(lease.address)


class Shelf:
    """The leases whose addresses are in one pool, or in none."""

    __slots__ = ("cooling", "free", "pool", "states", "taken")

    def __init__(self, pool: Pool | None) -> None:
        self.pool = pool
        self.taken = bytearray(pool.blocked if pool else b"")  # 1: leased, or never given out
        self.free = pool.size if pool else 0
        self.cooling: list[Lease] = []  # those that can be given out again
        self.states: Counter[LeaseState] = Counter()

    def gives_out(self, at: int) -> bool:
        return self.pool is not None and self.pool.gives_out(at)

    def mark(self, at: int, taken: bool) -> None:
        """Keep the map that finds free addresses; what is never given out stays taken."""
        if self.pool is not None and self.pool.gives_out(at):
            self.taken[at - self.pool.first] = taken
            self.free += -1 if taken else 1


class Mirror:
    """All leases by address, app and binding, and the pools their addresses come from."""

    def __init__(self, pools: Pools, leases: Iterable[Lease], stored: Iterable[PoolSpec] = ()) -> None:
        """`pools` are the configuration's, `stored` those made at run time. Raises `ConfigRefused`."""
        self._configured = pools
        self.pools = _effective(pools, stored)
        self._lay_out(leases)

    def _lay_out(self, leases: Iterable[Lease]) -> None:
        self._leases: dict[str, Lease] = {}
        self._held: dict[AppId, list[Lease]] = {}  # bound and stranded
        self._idle: dict[AppId, list[Lease]] = {}
        self._rest: dict[AppId, list[Lease]] = {}  # cooling and conflicted, of which we know whose they were
        self._slots: dict[AppId, bytearray] = {}
        self._ending: list[Lease] = []  # what has an end and is on no shelf's `cooling`
        self._shelves = {pool.name: Shelf(pool) for pool in self.pools}
        self._elsewhere = Shelf(None)
        self._freed: dict[str, int] = {}  # the last generation of addresses that became free
        self._load(leases)

    def _load(self, leases: Iterable[Lease]) -> None:
        """As `_put` for each, but lists are sorted once: a start has a hundred thousand to take in."""
        unsorted: dict[int, _Sorted] = {}
        for lease in leases:
            _share_names(lease)
            at = place_of(lease.address)
            shelf = self._shelf_at(at)
            self._enter(lease, shelf, at)
            for rows, key in self._lists_of(lease, shelf, at):
                rows.append(lease)
                unsorted[id(rows)] = (rows, key)
        for rows, key in unsorted.values():
            rows.sort(key=key)

    # What the book knows.

    def leases(self) -> list[Lease]:
        """Every lease, by address."""
        return sorted(self._leases.values(), key=lambda lease: place_of(lease.address))

    def by_address(self, address: str) -> Lease | None:
        """The lease of an address; None if it is free."""
        return self._leases.get(address)

    def by_app(self, app: AppId) -> list[Lease]:
        """The app's leases in every state, seats first and in their order."""
        mine = [*self._held.get(app, ()), *self._idle.get(app, ()), *self._rest.get(app, ())]
        return sorted(mine, key=lambda lease: (lease.slot is None, lease.slot or 0, lease.address))

    def held_by(self, app: AppId, binding: BindingId) -> list[Lease]:
        """What a binding of the app holds: bound, stranded, or both after its host was lost."""
        held = self._held.get(app, [])
        first = bisect_left(held, binding, key=_binding)
        return held[first : bisect_right(held, binding, lo=first, key=_binding)]

    def holders(self, app: AppId) -> Sequence[Lease]:
        """The app's leases that are bound or stranded, in no order that means anything."""
        return self._held.get(app, ())

    def has_idle_seat(self, app: AppId) -> bool:
        """Whether a seat of the app is kept with nobody in it."""
        return app in self._idle

    def idle_apps(self) -> set[AppId]:
        """The apps that have a seat kept for them with nobody in it."""
        return set(self._idle)

    def apps(self) -> set[AppId]:
        """Every app that has a seat. One of which addresses merely rest has nothing left to lose."""
        return {*self._held, *self._idle}

    def usage(self, pool: PoolName) -> Usage:
        """How full a pool is; `PoolUnknown` if there is none of that name."""
        found = self.pools.named(pool)
        shelf = self._shelves[found.name]
        states = {state: count for state, count in shelf.states.items() if count}
        return Usage(found.name, found.size, shelf.free, len(found.reservations), states)

    def available(self, pool: PoolName, now: float) -> int:
        """How many addresses of the pool could be given out: free ones, and those that have cooled."""
        shelf = self._shelves[self.pools.named(pool).name]
        return shelf.free + bisect_right(shelf.cooling, now, key=_until)

    def is_configured(self, pool: PoolName) -> bool:
        """Whether the pool stands in the configuration, and not only in the store."""
        return pool in self._configured

    # How it follows the store.

    def accept(self, writes: Sequence[Write]) -> None:
        """The store has committed these writes; the other kinds among them are no concern of the book."""
        pools = self.pools
        for write in writes:
            match write:
                case PutLease(lease, replaces):
                    assert replaces == self._generation(lease.address), write
                    self._put(lease)
                case DropLease(address, generation):
                    assert generation == self._generation(address), write
                    self._take_out(address)
                    self._freed[address] = generation
                case PutPool(spec):
                    pools = pools.with_pool(Pool.of(spec))
                case DropPool(name):
                    pools = pools.without(name)
        if pools is not self.pools:
            self._move_to(pools)

    def _move_to(self, pools: Pools) -> None:
        """Lay everything out anew: a change of pools is rare, and any lease may find itself elsewhere."""
        freed, self.pools = self._freed, pools
        self._lay_out(list(self._leases.values()))
        self._freed = freed

    def _generation(self, address: str) -> int | None:
        lease = self._leases.get(address)
        return None if lease is None else lease.generation

    def _last_generation(self, address: str) -> int:
        """Of its lease, or of the one it had before it became free; 0 if it never had one."""
        return self._generation(address) or self._freed.get(address, 0)

    def _shelf_at(self, at: int) -> Shelf:
        pool = self.pools.at(at)
        return self._elsewhere if pool is None else self._shelves[pool.name]

    def _put(self, lease: Lease) -> None:
        _share_names(lease)
        if lease.address in self._leases:
            self._take_out(lease.address)
        self._freed.pop(lease.address, None)
        at = place_of(lease.address)
        shelf = self._shelf_at(at)
        self._enter(lease, shelf, at)
        for rows, key in self._lists_of(lease, shelf, at):
            insort(rows, lease, key=key)

    def _enter(self, lease: Lease, shelf: Shelf, at: int) -> None:
        """Everything but the sorted lists."""
        self._leases[lease.address] = lease
        shelf.mark(at, taken=True)
        shelf.states[lease.state] += 1
        app, slot = lease.app, lease.slot
        if app is None or slot is None:
            return
        slots = self._slots.get(app)
        if slots is None:
            slots = self._slots[app] = bytearray()
        if slot >= len(slots):
            slots.extend(bytes(slot + 1 - len(slots)))
        slots[slot] += 1

    def _take_out(self, address: str) -> None:
        lease = self._leases.pop(address)
        at = place_of(address)
        shelf = self._shelf_at(at)
        shelf.mark(at, taken=False)
        shelf.states[lease.state] -= 1
        for rows, key in self._lists_of(lease, shelf, at):
            _remove(rows, lease, key)
        app = lease.app
        if app is None:
            return
        if lease.slot is not None:
            self._slots[app][lease.slot] -= 1
        for index in (self._held, self._idle, self._rest):
            if not index.get(app, True):
                del index[app]
        slots = self._slots.get(app, b"")
        if slots and slots.count(0) == len(slots):
            del self._slots[app]

    def _lists_of(self, lease: Lease, shelf: Shelf, at: int) -> list[_Sorted]:
        """The sorted lists that have the lease, with the key of each."""
        lists: list[_Sorted] = []
        if lease.app is not None:
            index, key = self._index_of(lease.state)
            rows = index.get(lease.app)
            if rows is None:
                rows = index[lease.app] = []
            lists.append((rows, key))
        if lease.until is not None:
            reusable = lease.state is LeaseState.COOLING and shelf.gives_out(at)
            lists.append((shelf.cooling if reusable else self._ending, by_end))
        return lists

    def _index_of(self, state: LeaseState) -> tuple[dict[AppId, list[Lease]], Callable[[Lease], Any]]:
        if state in _TAKEN:
            return self._held, _binding
        return (self._idle, _slot) if state is LeaseState.IDLE else (self._rest, _address)


def _effective(configured: Pools, stored: Iterable[PoolSpec]) -> Pools:
    """The configuration's pools and the stored ones; one that has moved into the configuration is there."""
    pools = [Pool.of(spec) for spec in stored]
    moved = [pool for pool in pools if pool.name in configured]
    faults = [
        f"pool {pool.name}: the configuration has it as {configured.named(pool.name).network}, the store as "
        f"{pool.network}: write {pool.network} into the configuration, or give that pool another name there"
        for pool in moved
        if configured.named(pool.name).network != pool.network
    ]
    if faults:
        raise ConfigRefused(faults)
    return Pools([*configured, *(pool for pool in pools if pool not in moved)])


def _share_names(lease: Lease) -> None:
    """Have one string for each name, however many leases carry it; their values do not change."""
    app, pool, host = lease.app, lease.pool, lease.host
    if intern(pool) is not pool:
        force_setattr(lease, "pool", intern(pool))
    if app is not None and intern(app) is not app:
        force_setattr(lease, "app", intern(app))
    if host is not None and intern(host) is not host:
        force_setattr(lease, "host", intern(host))


def _remove(rows: list[Lease], lease: Lease, key: Callable[[Lease], Any]) -> None:
    index = bisect_left(rows, key(lease), key=key)
    while rows[index].address != lease.address:  # several may have the same key
        index += 1
    del rows[index]
