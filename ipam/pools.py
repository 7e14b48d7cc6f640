"""Pools: which addresses exist, and which of them may ever be given out.

A pool is one subnet, IPv4 or IPv6, with what a container needs to live in it (gateway, routes, VLAN, MTU) and
a rule about who may use it.  One of IPv4 may be paired with an IPv6 network (see `pairs`).  `Pool.parse` is
the door: it takes plain values, checks all of them and raises one `ConfigRefused` with every fault.  Behind
the door everything is typed and consistent, so nobody checks again.

*Assignable* are the addresses of the subnet without its edges (network and broadcast, or the subnet-router
anycast of IPv6), the gateway, the excluded ranges (they belong to somebody else) and the reservations (they
are ours, but for a person to use).  Of a subnet with more than `MOST` addresses, which only IPv6 has, the
lowest `MOST` are used.  `Pool.blocked` is that knowledge as one byte for each address, 1 for "never": finding
the lowest free address in a copy of it is a single `bytearray.find`, 12 µs in the worst case of a million.

`Pools` keeps pools that do not overlap, because an address in two pools would have two books.  That goes for
both networks of a pair, but only a pool's own network is looked up: leases are of its addresses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address

from mooring.core.errors import ConfigRefused
from mooring.core.model import AppId, HostName, LeaseState, PoolName, PoolSpec
from mooring.core.specs import Route
from mooring.ipam.errors import PoolUnknown
from mooring.ipam.faults import MANAGED, Faults, Span, edge_of
from mooring.ipam.numbers import Address, Network, address_of, place, place_of
from mooring.ipam.pairs import LEAST_MTU, Pair

MOST = 1 << 20  # addresses of one pool; a byte for each


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a pool is. `leases` counts by state; `free` can be given out at once."""

    pool: PoolName
    size: int  # assignable addresses
    free: int
    reserved: int  # by the configuration
    leases: Mapping[LeaseState, int]


@dataclass(frozen=True)
class Pool:
    """A subnet to give addresses from. Build it with `Pool.parse`."""

    name: PoolName
    network: Network
    gateway: Address | None = None
    vlan: int | None = None
    routes: tuple[Route, ...] = ()
    mtu: int | None = None
    excluded: tuple[Span, ...] = ()
    reservations: Mapping[Address, str] = field(default_factory=dict)
    groups: tuple[AppId, ...] = ()  # app id prefixes; empty means every app
    supernet: str | None = None  # the one it was generated from
    pair: Pair | None = None  # the IPv6 network that a pool of IPv4 goes with
    gateway_host: HostName | None = None  # which host we make its gateway
    gateway_nat: bool = False

    @classmethod
    def parse(
        cls,
        name: str,
        network: str,
        *,
        gateway: str | None = None,
        vlan: int | None = None,
        routes: Sequence[Route] = (),
        mtu: int | None = None,
        exclude: Sequence[str] = (),
        reservations: Mapping[str, str] | None = None,
        groups: Sequence[str] = (),
        supernet: str | None = None,
        ipv6: str | None = None,
        gateway6: str | None = None,
        gateway_host: str | None = None,
        gateway_nat: bool = False,
    ) -> Pool:
        """Build a pool from plain values.

        `gateway` "managed" is the subnet's first address, to be kept by `gateway_host`.
        `exclude` holds addresses and ranges ("10.0.0.1-10.0.0.9"), `reservations` maps addresses to
        notes, `groups` holds app ids whose subtree may use the pool. Raises `ConfigRefused`.
        """
        faults = Faults("pool", name)
        subnet = faults.network(network)
        if subnet is None:
            raise ConfigRefused(faults.lines)
        faults.managed(gateway, gateway_host, gateway_nat)
        if gateway == MANAGED or (gateway is None and gateway_host):
            gateway = str(subnet.network_address + 1)
        hop = None if gateway is None else faults.host("gateway", gateway, subnet)
        spans = [span for text in exclude if (span := faults.span(text, subnet)) is not None]
        notes = {
            address: note
            for text, note in (reservations or {}).items()
            if (address := faults.host("reservation", text, subnet)) is not None
        }
        faults.within("vlan", vlan, 1, 4094)
        pair = Pair.parse(faults, subnet, hop, ipv6, gateway6)
        faults.within("mtu", mtu, 576 if subnet.version == 4 and ipv6 is None else LEAST_MTU, 65535)
        faults.routes(routes, subnet, None if pair is None else pair.reaches)
        faults.groups(groups)
        wiring = (hop, vlan, tuple(routes), mtu)
        pool = cls(
            PoolName(name), subnet, *wiring, tuple(spans), notes, _app_ids(groups), supernet, pair,
            HostName(gateway_host) if gateway_host else None, gateway_nat,
        )  # fmt: skip
        if not faults.lines and pool.size == 0:
            faults.add("nothing is left to give out: shorten `exclude` or `reservations`")
        if faults.lines:
            raise ConfigRefused(faults.lines)
        return pool

    @classmethod
    def of(cls, spec: PoolSpec) -> Pool:
        """The pool that was stored or sent as plain values. Raises `ConfigRefused`."""
        return cls.parse(
            spec.name,
            spec.network,
            gateway=spec.gateway,
            vlan=spec.vlan,
            routes=spec.routes,
            mtu=spec.mtu,
            exclude=spec.exclude,
            reservations=spec.reservations,
            groups=spec.groups,
            supernet=spec.supernet,
            ipv6=spec.ipv6,
            gateway6=spec.gateway6,
            gateway_host=spec.gateway_host,
            gateway_nat=spec.gateway_nat,
        )

    @property
    def spec(self) -> PoolSpec:
        """The pool in plain values, addresses in canonical text."""
        return PoolSpec(
            self.name,
            str(self.network),
            None if self.gateway is None else str(self.gateway),
            self.vlan,
            self.mtu,
            self.routes,
            tuple(map(str, self.excluded)),
            {str(address): note for address, note in self.reservations.items()},
            self.groups,
            self.supernet,
            None if self.pair is None else str(self.pair.network),
            None if self.pair is None or self.pair.gateway is None else str(self.pair.gateway),
            self.gateway_host,
            self.gateway_nat,
        )

    @cached_property
    def first(self) -> int:
        """The place of the subnet's first address on the line of both families."""
        return place(self.network.network_address)

    @cached_property
    def last(self) -> int:
        """The place of the subnet's last address."""
        return place(self.network.broadcast_address)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First and last place of each network of the pool, its own first."""
        pair = () if self.pair is None else (self.pair.network,)
        beside = [(place(one.network_address), place(one.broadcast_address)) for one in pair]
        return ((self.first, self.last), *beside)

    @property
    def networks(self) -> str:
        """Its network, and the IPv6 network that it is paired with, for people."""
        return str(self.network) if self.pair is None else f"{self.network}, {self.pair.network}"

    def partner(self, address: str) -> str | None:
        """The IPv6 address of whoever has that address of the pool, in canonical text; None: no pair."""
        if self.pair is None:
            return None
        return str(self.pair.partner(IPv4Address(address)))

    @cached_property
    def reach(self) -> int:
        """How many addresses, from the first on, are looked at: all, or `MOST` of them."""
        return min(self.network.num_addresses, MOST)

    def allows(self, app: AppId) -> bool:
        """Whether the app is in the subtree of one of the pool's groups."""
        return not self.groups or any(_below(app, group) for group in self.groups)

    def refusal(self, address: Address) -> str | None:
        """Why the address may never be given out, as the end of a sentence; None if it may be."""
        if address not in self.network:
            return f"is outside {self.network}"
        if edge := edge_of(address, self.network):
            return edge
        if address == self.gateway:
            return "is the gateway"
        if address in self.reservations:
            return f"is reserved: {self.reservations[address]}"
        if place(address) - self.first >= self.reach:
            return f"is beyond the lowest {MOST} addresses of {self.network}, which are those given out"
        return next((f"is excluded by {span}" for span in self.excluded if address in span), None)

    def address_at(self, position: int) -> str:
        """The address so many after the subnet's first, in canonical text."""
        return str(self.network.network_address + position)

    def gives_out(self, at: int) -> bool:
        """Whether the address at that place is assignable."""
        position = at - self.first
        return 0 <= position < self.reach and not self.blocked[position]

    @cached_property
    def blocked(self) -> bytes:
        """One byte for each address that is looked at, in order: 1 if it is never given out, else 0."""
        blocked = bytearray(self.reach)
        blocked[0] = 1
        lone = [self.gateway] if self.gateway is not None else []
        if self.network.version == 4:
            lone.append(self.network.broadcast_address)
        for address in (*lone, *self.reservations):
            position = place(address) - self.first
            if position < self.reach:
                blocked[position] = 1
        for span in self.excluded:
            first = min(place(span.first) - self.first, self.reach)
            end = min(place(span.last) - self.first + 1, self.reach)
            blocked[first:end] = b"\x01" * (end - first)
        return bytes(blocked)

    @cached_property
    def size(self) -> int:
        """How many addresses are assignable."""
        return self.blocked.count(0)

    def assignable(self) -> Iterator[Address]:
        """The addresses that may be given out, lowest first."""
        position = self.blocked.find(0)
        while position >= 0:
            yield ip_address(self.address_at(position))
            position = self.blocked.find(0, position + 1)


class Pools:
    """All pools, by name; no two share an address or a name."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        """Raises `ConfigRefused` with a line for every pair that collides."""
        listed = list(pools)
        self._ordered = sorted(listed, key=lambda pool: (pool.first, -pool.last))
        names = [pool.name for pool in listed]
        faults = [_overlap(one, two) for one, two in self._overlapping()]
        faults += [f"pool {name} is defined twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        if faults:
            raise ConfigRefused(faults)
        self._by_name = {pool.name: pool for pool in listed}
        self._firsts = [pool.first for pool in self._ordered]

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def named(self, name: str) -> Pool:
        """The pool of that name; `PoolUnknown` lists those that exist."""
        pool = self._by_name.get(PoolName(name))
        if pool is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise PoolUnknown(f"there is no pool {name!r} (known: {known})")
        return pool

    def containing(self, address: Address) -> Pool | None:
        """The pool whose subnet the address is in."""
        return self.at(place(address))

    def of_text(self, address: str) -> Pool | None:
        """The same for an address in canonical text."""
        return self.at(place_of(address))

    def at(self, number: int) -> Pool | None:
        """The pool whose subnet has that place of the line."""
        index = bisect_right(self._firsts, number) - 1
        pool = self._ordered[index] if index >= 0 else None
        return pool if pool is not None and number <= pool.last else None

    def leased(self, address: str) -> str:
        """The address whose lease says in whose hand this one is: of a pair its IPv4, else itself."""
        if ":" not in address:
            return address
        number = address_of(address)
        for pool in self._ordered:
            if pool.pair is not None and isinstance(number, IPv6Address):
                origin = pool.pair.origin(number)
                if origin is not None and origin in pool.network:
                    return str(origin)
        return address

    def sharing(self, pool: Pool) -> list[Pool]:
        """The pools, other than one of the same name, that have addresses in common with this one."""
        return [other for other in self._ordered if other.name != pool.name and _share(other, pool)]

    def with_pool(self, pool: Pool) -> Pools:
        """These pools and that one, in the place of one of the same name. Raises `ConfigRefused`."""
        return Pools((self._by_name | {pool.name: pool}).values())

    def without(self, name: PoolName) -> Pools:
        """These pools but the one of that name."""
        return Pools(pool for pool in self if pool.name != name)

    def _overlapping(self) -> Iterator[tuple[Pool, Pool]]:
        spans = sorted(
            ((first, last, pool) for pool in self._ordered for first, last in pool.spans),
            key=lambda span: (span[0], -span[1]),
        )
        for position, (_, end, one) in enumerate(spans):
            for first, _, two in spans[position + 1 :]:
                if first > end:
                    break
                yield one, two


def _share(one: Pool, two: Pool) -> bool:
    return any(first <= end and begin <= last for first, last in one.spans for begin, end in two.spans)


def _overlap(one: Pool, two: Pool) -> str:
    return (
        f"pools {one.name} ({one.networks}) and {two.name} ({two.networks}) overlap: "
        "give each address to one pool only"
    )


def _app_ids(groups: Sequence[str]) -> tuple[AppId, ...]:
    return tuple(AppId("/" + group.strip("/")) for group in groups)


def _below(app: AppId, group: AppId) -> bool:
    """Whole path elements only: /shop holds /shop and /shop/web, never /shopping."""
    return group == "/" or app == group or app.startswith(f"{group}/")
