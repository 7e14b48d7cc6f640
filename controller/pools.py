"""Pools while the daemon runs: how full they are, and an operator's changes to them.

Every change goes the way of all writes: planned by the lease book, stored, then in force.  Afterwards
`changed` is called, because more follows a pool than its addresses: which labels are acceptable, how the
ports in it are wired, and who can be served that waited.

While the store does not know every lease, an address that looks free may be somebody's.  Pools may be added
then (a rebuild needs those that were made at run time); what could take an address from an unknown hand has
to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from mooring.controller.settings import Settings
from mooring.core.clock import Clock
from mooring.core.errors import ConfigRefused, Refused, Retryable
from mooring.core.model import PoolName, PoolSpec
from mooring.core.readmodel import PoolRow
from mooring.core.store import DropPool, Note, PutPool, Write
from mooring.handlers.create import Seats
from mooring.handlers.fabric import mtu_of
from mooring.handlers.kill import leads_to
from mooring.handlers.records import Records
from mooring.handlers.wants import Second, Wiring
from mooring.ipam.errors import PoolUnknown
from mooring.ipam.forecast import Trend
from mooring.ipam.numbers import address_of
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.reach import Reach
from mooring.ipam.supernets import Supernet

log = structlog.get_logger(__name__)


class PoolKeeper:
    """Carries out what an operator decides about pools and addresses.

    Every method may raise what the plan of that name in `ipam.estate` raises, and what a commit raises.
    """

    def __init__(
        self,
        records: Records,
        clock: Clock,
        supernets: Mapping[str, Supernet],
        changed: Callable[[bool], None],
        unsure: Callable[[], str] = lambda: "",
        accept: Callable[[PoolSpec], None] = lambda spec: None,
    ) -> None:
        """`changed` is called when a change is in force: with whether pools differ, or only leases.

        `unsure` tells why not every lease is known; "" if all are.  `accept` refuses a pool for whatever
        lies outside the lease book.
        """
        self._records = records
        self._clock = clock
        self._supernets = supernets
        self._changed = changed
        self._unsure = unsure
        self._accept = accept
        self.hosts: frozenset[str] | None = None  # those of the inventory, once they are known

    def specs(self) -> list[PoolSpec]:
        """Every pool in force, whole."""
        return [pool.spec for pool in self._records.book.pools]

    async def add(self, spec: PoolSpec) -> PoolSpec:
        """A new pool."""
        self._check(spec)
        await self._change(lambda now: self._records.book.plan_pool_add(spec, now))
        return self._records.book.pools.named(spec.name).spec

    async def generate(self, name: str, supernet: str, groups: Sequence[str]) -> PoolSpec:
        """A new pool with the next free subnet and VLAN of a supernet. Raises `SupernetExhausted`."""
        source = self._supernets.get(supernet)
        if source is None:
            known = ", ".join(sorted(self._supernets)) or "none"
            raise PoolUnknown(f"there is no supernet {supernet!r} (configured: {known})")
        made: list[PoolSpec] = []

        def plan(now: float) -> list[Write]:
            book = self._records.book
            made.append(source.next_pool(name, book.pools, groups))
            self._check(made[0])
            return book.plan_pool_add(made[0], now, f"generated from {supernet}")

        await self._change(plan)
        return made[0]

    async def resize(self, name: str, network: str) -> PoolSpec:
        """Another network for a pool that was made at run time."""
        self._check_sure(f"pool {name}")
        await self._change(lambda now: self._records.book.plan_pool_resize(PoolName(name), network, now))
        return self._records.book.pools.named(name).spec

    async def remove(self, name: str) -> None:
        """A pool that was made at run time goes."""
        self._check_sure(f"pool {name}")
        await self._change(lambda now: self._records.book.plan_pool_remove(PoolName(name), now))

    async def reserve(self, address: str, reason: str) -> None:
        """Keep an address for a person."""
        self._check_sure(address)
        await self._change(lambda now: self._records.book.plan_reserve(address, reason, now))

    async def unreserve(self, address: str) -> None:
        """End that; the address cools."""
        await self._change(lambda now: self._records.book.plan_unreserve(address, now))

    async def release(self, address: str) -> None:
        """A conflicted address or an idle seat cools. `Retryable` while something of ours leads there."""
        await self._change(lambda now: self._release(address, now))

    def _release(self, address: str, now: float) -> list[Write]:
        writes = self._records.book.plan_release_conflict(address, now, "released by an operator")
        shown = next((one for one in self._records.all() if leads_to(one, str(address_of(address)))), None)
        if writes and shown is not None:
            raise Retryable(f"{address} is still shown for {shown.instance}; release it when that is undone")
        return writes

    def _check(self, spec: PoolSpec) -> None:
        self._accept(spec)
        if self.hosts is not None and (faults := strange_keepers([spec], self.hosts)):
            raise ConfigRefused(faults)

    def _check_sure(self, what: str) -> None:
        if reason := self._unsure():
            raise Refused(f"{what} stays as it is, because somebody unknown may hold an address: {reason}")

    async def _change(self, plan: Callable[[float], list[Write]]) -> None:
        async with self._records.changing():
            writes = plan(self._clock.now())
            await self._records.commit(writes)
        for write in writes:
            if isinstance(write, Note):
                log.info(write.event, pool=write.pool, address=write.address, reason=write.reason)
        if writes:
            self._changed(any(isinstance(write, PutPool | DropPool) for write in writes))


def strange_keepers(pools: Iterable[PoolSpec], hosts: Collection[str]) -> list[str]:
    """A line for each pool whose gateway shall be a host that the inventory does not have."""
    return [
        f"pool {pool.name}: gateway_host {pool.gateway_host} is not in the inventory: add it there, or name "
        "one that is"
        for pool in pools
        if pool.gateway_host is not None and pool.gateway_host not in hosts
    ]


class Occupancy:
    """How full every pool is, and when it will be exhausted."""

    def __init__(self, records: Records, seats: Seats, clock: Clock) -> None:
        self._records = records
        self._seats = seats
        self._clock = clock
        self._trends: dict[PoolName, Trend] = {}

    def sample(self) -> None:
        """Look at all pools, for the forecast; to be called every few seconds."""
        now, book = self._clock.monotonic(), self._records.book
        self._trends = {pool.name: self._trends.get(pool.name) or Trend() for pool in book.pools}
        for name, trend in self._trends.items():
            usage = book.usage(name)
            trend.observe(now, usage.size - usage.free)

    def rows(self) -> list[PoolRow]:
        """One for each pool in force."""
        waiting = self._seats.in_line()
        return [self._row(pool, waiting.get(pool.name, 0)) for pool in self._records.book.pools]

    def _row(self, pool: Pool, waiting: int) -> PoolRow:
        book = self._records.book
        usage, trend = book.usage(pool.name), self._trends.get(pool.name) or Trend()
        taken = usage.size - usage.free
        spec = pool.spec
        return PoolRow(
            name=pool.name,
            network=spec.network,
            vlan=pool.vlan,
            gateway=spec.gateway,
            size=usage.size,
            free=usage.free,
            leases={state.value: count for state, count in usage.leases.items()},
            waiting=waiting,
            exhausted_in_s=trend.seconds_left(self._clock.monotonic(), taken, usage.size),
            set_aside=usage.reserved,
            groups=tuple(pool.groups),
            configured=book.is_configured(pool.name),
            supernet=pool.supernet,
            ipv6=spec.ipv6,
            gateway6=spec.gateway6,
        )


def wiring_at(
    pools: Pools, address: str | None, reach: Reach, largest_mtu: int | None = None
) -> Wiring | None:
    """How a port with that address is wired: by the pool that has the address now, whatever its name.

    `largest_mtu` is what the fabric carries, where it limits that.
    """
    pool = None if address is None else pools.of_text(address)
    if pool is None or address is None:
        return None
    gateway = None if pool.gateway is None else str(pool.gateway)
    barred = reach.barred(pools, pool)
    second, mtu = _second(pool, address), mtu_of(pool.mtu, largest_mtu)
    return Wiring(pool.network.prefixlen, gateway, pool.vlan, mtu, pool.routes, barred, second)


def _second(pool: Pool, address: str) -> Second | None:
    partner = pool.partner(address)
    if pool.pair is None or partner is None:
        return None
    gateway = None if pool.pair.gateway is None else str(pool.pair.gateway)
    return Second(partner, pool.pair.network.prefixlen, gateway)


def supernets_of(settings: Settings) -> dict[str, Supernet]:
    """The supernets of the configuration, by name."""
    return {name: table.parsed(name) for name, table in settings.supernets.items()}
