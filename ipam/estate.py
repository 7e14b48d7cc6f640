"""What an operator may change while the daemon runs: pools, reservations, and who must let go.

The pools in force are those of the configuration and those that were made at run time, which the store keeps.
A pool of the configuration is changed there; the others can be added, resized and removed here.  A change is
refused (`PoolInUse`) when a lease would lose its place by it: one that is bound, idle, stranded, reserved or
conflicted.  Addresses that cool may be left outside, because all that they still need is time.

A reservation is a lease too, in state `reserved` and with its reason as `note`.  It is never made over an
address that an instance or an empty seat has; taken back, the address cools like any other, because whoever
it was kept for may still answer on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mooring.core.errors import check_reason
from mooring.core.model import Lease, LeaseState, PoolName, PoolSpec
from mooring.core.store import DropPool, Note, PutPool, Write
from mooring.ipam.errors import AddressRefused, AddressTaken, LeaseMismatch, PoolClash, PoolInUse
from mooring.ipam.numbers import address_of, place_of
from mooring.ipam.pools import Pool
from mooring.ipam.steps import Steps

_MOST_NAMED = 5


class Estate(Steps):
    """Plans changes of pools and reservations."""

    def plan_pool_add(self, spec: PoolSpec, now: float, reason: str = "added") -> list[Write]:
        """A pool that did not exist. Raises `ConfigRefused` for its values, `PoolClash` for its place."""
        pool = Pool.of(spec)
        if pool.name in self.pools:
            known = self.pools.named(pool.name)
            raise PoolClash(f"pool {pool.name} exists ({known.network}); choose another name, or resize it")
        self._refuse_shared(pool)
        return [PutPool(pool.spec), _pool_note(pool, now, "pool added", f"{pool.networks}: {reason}")]

    def plan_pool_resize(self, name: PoolName, network: str, now: float) -> list[Write]:
        """The pool with another network, larger, smaller or elsewhere; [] if it has that already.

        Raises `PoolUnknown`, `PoolClash`, `PoolInUse`, or `ConfigRefused` if its gateway, exclusions,
        reservations or routes do not fit.
        """
        old = self._stored_pool(name)
        new = Pool.of(msgspec.structs.replace(old.spec, network=network))
        if new.network == old.network:
            return []
        self._refuse_shared(new)
        lost = [lease for lease in self._kept_in(old) if _loses_its_place(lease, old, new)]
        _refuse_lost(lost, f"pool {name} cannot become {new.network}")
        return [
            PutPool(new.spec),
            _pool_note(new, now, "pool resized", f"{old.network} became {new.network}"),
        ]

    def plan_pool_remove(self, name: PoolName, now: float) -> list[Write]:
        """The pool is no more. Raises `PoolUnknown`, `PoolClash` (the configuration's) or `PoolInUse`."""
        pool = self._stored_pool(name)
        _refuse_lost(self._kept_in(pool), f"pool {name} cannot be removed")
        return [DropPool(pool.name), _pool_note(pool, now, "pool removed", str(pool.network))]

    def plan_reserve(self, address: str, reason: str, now: float) -> list[Write]:
        """The address is kept for a person; again, with another reason, that is its reason from then on.

        Raises `AddressRefused` (never given out anyway), `PoolUnknown` or `AddressTaken` (by whom).
        """
        check_reason(reason)
        address = str(address_of(address))
        pool = self._pool_of(address)
        refusal = pool.refusal(address_of(address))
        if refusal is not None:
            raise AddressRefused(f"{address} {refusal} (pool {pool.name}): it is never given out anyway")
        known = self._leases.get(address)
        if known is None:
            generation = self._last_generation(address) + 1
            empty = (None, None, None, None)
            kept = Lease(address, pool.name, LeaseState.RESERVED, *empty, generation, now, note=reason)
        elif known.state is LeaseState.COOLING or (
            known.state is LeaseState.RESERVED and known.note != reason
        ):
            kept = known.moved(
                LeaseState.RESERVED, now, app=None, host=None, until=None, note=reason, pool=pool.name
            )
        elif known.state is LeaseState.RESERVED:
            return []
        else:
            raise AddressTaken(f"{address} is {_in_whose_hand(known)}; reserve it when it has been released")
        return self._step(kept, "reserved", reason)

    def plan_unreserve(self, address: str, now: float) -> list[Write]:
        """The reservation ends and the address cools. Raises `LeaseMismatch`."""
        address = str(address_of(address))
        pool = self.pools.at(place_of(address))
        if pool is not None and address_of(address) in pool.reservations and address not in self._leases:
            raise LeaseMismatch(f"{address} is reserved by pool {pool.name} itself; take it out there")
        lease = self._in_state(address, LeaseState.RESERVED)
        return self._cool(lease, now, f"no longer reserved: {lease.note}")

    def plan_release_conflict(self, address: str, now: float, reason: str) -> list[Write]:
        """An operator says that nobody needs the address any more: it cools.

        For `conflicted` addresses, whose stranger is gone, and for `idle` seats. What an instance has can
        only be given back by its host. Raises `LeaseMismatch`.
        """
        lease = self._in_state(str(address_of(address)), LeaseState.CONFLICTED, LeaseState.IDLE)
        return self._cool(lease, now, reason)

    def homeless(self) -> list[Lease]:
        """Leases in an instance's hand whose address no pool contains."""
        held = (lease for leases in self._held.values() for lease in leases)
        return sorted(
            (lease for lease in held if self.pools.at(place_of(lease.address)) is None),
            key=lambda lease: place_of(lease.address),
        )

    def _stored_pool(self, name: PoolName) -> Pool:
        pool = self.pools.named(name)
        if self.is_configured(pool.name):
            raise PoolClash(f"pool {name} stands in the configuration: change it there, and start again")
        return pool

    def _refuse_shared(self, pool: Pool) -> None:
        others = self.pools.sharing(pool)
        if others:
            named = ", ".join(f"{other.name} ({other.networks})" for other in others[:_MOST_NAMED])
            raise PoolClash(f"{pool.networks} shares addresses with pool {named}: give each to one pool only")

    def _kept_in(self, pool: Pool) -> list[Lease]:
        """The pool's leases that need a place, by address."""
        kept = (lease for lease in self._leases.values() if lease.state is not LeaseState.COOLING)
        inside = (lease for lease in kept if pool.first <= place_of(lease.address) <= pool.last)
        return sorted(inside, key=lambda lease: place_of(lease.address))


def homeless_lines(estate: Estate) -> list[str]:
    """One line for each pool that live leases name and whose addresses no pool has; empty: all have one."""
    by_pool: dict[PoolName, list[Lease]] = {}
    for lease in estate.homeless():
        by_pool.setdefault(lease.pool, []).append(lease)
    return [
        f"pool {pool}: no pool contains {_named(leases)}: put a pool with these addresses back, "
        "and take it out when their instances are gone"
        for pool, leases in sorted(by_pool.items())
    ]


def _loses_its_place(lease: Lease, old: Pool, new: Pool) -> bool:
    """Outside, or given out by the old pool and not by the new: its gateway, its broadcast address."""
    address = address_of(lease.address)
    return address not in new.network or (new.refusal(address) is not None and old.refusal(address) is None)


def _refuse_lost(lost: Sequence[Lease], what: str) -> None:
    if lost:
        raise PoolInUse(
            f"{what}: {_named(lost)} would have no pool; move their apps to another one and wait, "
            "or let go of them with `mooring lease release` or `mooring pool unreserve`"
        )


def _named(leases: Sequence[Lease]) -> str:
    first = ", ".join(f"{lease.address} ({_in_whose_hand(lease)})" for lease in leases[:_MOST_NAMED])
    return first if len(leases) <= _MOST_NAMED else f"{first} and {len(leases) - _MOST_NAMED} more"


def _in_whose_hand(lease: Lease) -> str:
    """State and holder, in a few words."""
    if lease.binding is not None:
        return f"{lease.state} for {lease.binding} on {lease.host}"
    if lease.state is LeaseState.IDLE:
        return f"idle for {lease.app} slot {lease.slot}"
    return f"{lease.state}: {lease.note}" if lease.note else str(lease.state)


def _pool_note(pool: Pool, now: float, event: str, reason: str) -> Note:
    return Note(now, event, reason, pool=pool.name, vlan=pool.vlan)
