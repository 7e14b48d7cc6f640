"""The mirror: the store's leases in memory, indexed for planning.

Leases are found by address, by app and by binding, and each pool has a copy of `Pool.blocked` in which
leased addresses are marked too, so that the lowest free one is one search away.  Only `accept` changes
the mirror, after the store has taken the writes; the store enforces the same invariants on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import TypeVar

from mooring.core.model import AppId, BindingId, Lease, LeaseState, PoolName
from mooring.core.store import DropLease, PutLease, Write
from mooring.ipam.pools import Pool, Pools, Usage

_K = TypeVar("_K", AppId, BindingId)


class Mirror:
    """All leases by address, app and binding."""

    def __init__(self, pools: Pools, leases: Iterable[Lease]) -> None:
        self.pools = pools
        self._leases: dict[str, Lease] = {}
        self._by_app: dict[AppId, dict[str, Lease]] = {}
        self._by_binding: dict[BindingId, dict[str, Lease]] = {}
        self._taken = {pool.name: bytearray(pool.blocked) for pool in pools}
        self._freed: dict[str, int] = {}  # the last generation of addresses that became free
        for lease in leases:
            self._put(lease)

    def leases(self) -> list[Lease]:
        """Every lease, by address."""
        return sorted(self._leases.values(), key=lambda lease: IPv4Address(lease.address))

    def by_address(self, address: str) -> Lease | None:
        """The lease of an address; None if it is free."""
        return self._leases.get(address)

    def by_app(self, app: AppId) -> list[Lease]:
        """The app's leases in every state, seats first and in their order."""
        mine = self._by_app.get(app, {}).values()
        return sorted(mine, key=lambda lease: (lease.slot is None, lease.slot or 0, lease.address))

    def by_binding(self, binding: BindingId) -> list[Lease]:
        """What a binding holds: bound, stranded, or both after its host was lost."""
        return list(self._by_binding.get(binding, {}).values())

    def seats(self, app: AppId) -> Mapping[LeaseState, int]:
        """How many of the app's leases are in each state."""
        return Counter(lease.state for lease in self._by_app.get(app, {}).values())

    def idle_apps(self) -> set[AppId]:
        """The apps that have a seat kept for them with nobody in it."""
        leases = self._leases.values()
        return {lease.app for lease in leases if lease.state is LeaseState.IDLE and lease.app is not None}

    def usage(self, pool: PoolName) -> Usage:
        """How full a pool is; `PoolUnknown` if there is none of that name."""
        found = self.pools.named(pool)
        states = Counter(lease.state for lease in self._leases.values() if lease.pool == pool)
        return Usage(pool, found.size, self._taken[pool].count(0), len(found.reservations), states)

    def accept(self, writes: Sequence[Write]) -> None:
        """The store has committed these writes; the other kinds among them are no concern of the book."""
        for write in writes:
            if isinstance(write, PutLease):
                assert write.replaces == self._generation(write.lease.address), write
                self._put(write.lease)
            elif isinstance(write, DropLease):
                assert write.generation == self._generation(write.address), write
                self._drop(write.address)

    def _lowest_free(self, pool: Pool) -> str | None:
        position = self._taken[pool.name].find(0)
        return None if position < 0 else str(pool.network.network_address + position)

    def _generation(self, address: str) -> int | None:
        lease = self._leases.get(address)
        return None if lease is None else lease.generation

    def _put(self, lease: Lease) -> None:
        if lease.address in self._leases:
            self._drop(lease.address)
        self._leases[lease.address] = lease
        if lease.app is not None:
            self._by_app.setdefault(lease.app, {})[lease.address] = lease
        if lease.binding is not None:
            self._by_binding.setdefault(lease.binding, {})[lease.address] = lease
        self._mark(lease.address, taken=True)

    def _drop(self, address: str) -> None:
        lease = self._leases.pop(address)
        self._freed[address] = lease.generation
        if lease.app is not None:
            _unlist(self._by_app, lease.app, address)
        if lease.binding is not None:
            _unlist(self._by_binding, lease.binding, address)
        self._mark(address, taken=False)

    def _mark(self, address: str, *, taken: bool) -> None:
        """Keep the map that `_lowest_free` searches; a lease of a removed pool has no place in any."""
        number = IPv4Address(address)
        pool = self.pools.containing(number)
        if pool is not None:
            position = int(number) - int(pool.network.network_address)
            self._taken[pool.name][position] = 1 if taken else pool.blocked[position]


def _unlist(index: dict[_K, dict[str, Lease]], key: _K, address: str) -> None:
    del index[key][address]
    if not index[key]:
        del index[key]
