"""How a step of a lease is written down, and the checks that several kinds of step share.

`_step` pairs the new lease with a note for the history, so that no step can be planned without one.  The
write says which generation it replaces: a plan that was made on an older book is refused by the store.
"""

from __future__ import annotations

from collections.abc import Iterable

from mooring.core.model import InstanceId, Lease, LeaseState, PoolSpec
from mooring.core.store import Note, PutLease, Write
from mooring.ipam.errors import LeaseMismatch, PoolUnknown
from mooring.ipam.mirror import Mirror
from mooring.ipam.numbers import place_of
from mooring.ipam.pools import Pool, Pools

DAY_S = 86_400.0


class Steps(Mirror):
    """Writes steps down."""

    def __init__(
        self,
        pools: Pools,
        leases: Iterable[Lease] = (),
        stored: Iterable[PoolSpec] = (),
        *,
        idle_ttl_s: float = 7 * DAY_S,
        cooling_s: float = 300.0,
        dns_ttl_s: float = 0.0,
    ) -> None:
        """`pools` are the configuration's, `stored` those made at run time; `ConfigRefused` if they clash.

        `idle_ttl_s` keeps an empty seat's address; `cooling_s` or the longer `dns_ttl_s` quarantines.
        """
        super().__init__(pools, leases, stored)
        self._idle_ttl_s = idle_ttl_s
        self._cooling_s = max(cooling_s, dns_ttl_s)

    def _step(self, lease: Lease, event: str, reason: str) -> list[Write]:
        """The write that replaces what the book has, and a note that says who was concerned."""
        before = self._leases.get(lease.address)
        concerned = lease if lease.binding is not None or before is None else before
        replaces = None if before is None else before.generation
        return [PutLease(lease, replaces), self._note(concerned, lease, event, reason)]

    def _note(self, concerned: Lease, after: Lease, event: str, reason: str) -> Note:
        # A binding is named after its instance; what it left on a lost host has "~<n>" behind that.
        holder = concerned.binding
        pool = self.pools.at(place_of(after.address))
        return Note(
            after.since,
            event,
            reason,
            after.address,
            concerned.app,
            concerned.slot,
            None if holder is None else InstanceId(holder.partition("~")[0]),
            concerned.host,
            pool=after.pool,
            vlan=None if pool is None else pool.vlan,
            generation=after.generation,
        )

    def _cool(self, lease: Lease, now: float, reason: str) -> list[Write]:
        end = now + self._cooling_s
        cooling = lease.moved(LeaseState.COOLING, now, binding=None, slot=None, until=end, note=None)
        return self._step(cooling, "cooling", reason)

    def _in_state(self, address: str, *states: LeaseState) -> Lease:
        lease = self._leases.get(address)
        if lease is None or lease.state not in states:
            found = "free" if lease is None else str(lease.state)
            raise LeaseMismatch(f"{address} is {found}, and would have to be {' or '.join(states)}")
        return lease

    def _pool_of(self, address: str) -> Pool:
        pool = self.pools.at(place_of(address))
        if pool is None:
            raise PoolUnknown(f"no pool contains {address}: add one that does, or detach the port")
        return pool
