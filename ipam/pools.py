"""Pools: which addresses exist, and which of them may ever be given out.

A pool is one IPv4 subnet with what a container needs to live in it (gateway, routes, VLAN, MTU) and a
rule about who may use it.  `Pool.parse` is the door: it takes the configuration's plain values, checks
all of them and raises one `ConfigRefused` with every fault.  Behind the door everything is typed and
consistent, so nobody checks again.

*Assignable* are the host addresses of the subnet without the gateway, without the excluded ranges (they
belong to somebody else) and without the reservations (they are ours, but for a person to use).
`Pool.blocked` is that knowledge as one byte for each address of the subnet, 1 for "never": finding the
lowest free address in a copy of it is a single `bytearray.find`, 12 µs in the worst case of a million.

`Pools` keeps pools that do not overlap, because an address in two pools would have two books.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from mooring.core.errors import ConfigRefused
from mooring.core.model import AppId, LeaseState, PoolName
from mooring.core.specs import Route
from mooring.ipam.errors import PoolUnknown

WIDEST_PREFIX = 12  # a byte for each address: 1 MiB
NARROWEST_PREFIX = 30


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses from `first` to `last`, both included."""

    first: IPv4Address
    last: IPv4Address

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


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
    network: IPv4Network
    gateway: IPv4Address | None = None
    vlan: int | None = None
    routes: tuple[Route, ...] = ()
    mtu: int | None = None
    excluded: tuple[Span, ...] = ()
    reservations: Mapping[IPv4Address, str] = field(default_factory=dict)
    groups: tuple[AppId, ...] = ()  # app id prefixes; empty means every app

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
    ) -> Pool:
        """Build a pool from plain values.

        `exclude` holds addresses and ranges ("10.0.0.1-10.0.0.9"), `reservations` maps addresses to
        notes, `groups` holds app ids whose subtree may use the pool. Raises `ConfigRefused`.
        """
        faults = _Faults(name)
        subnet = faults.network(network)
        if subnet is None:
            raise ConfigRefused(faults.lines)
        hop = None if gateway is None else faults.host("gateway", gateway, subnet)
        spans = [span for text in exclude if (span := faults.span(text, subnet)) is not None]
        notes = {
            address: note
            for text, note in (reservations or {}).items()
            if (address := faults.host("reservation", text, subnet)) is not None
        }
        faults.within("vlan", vlan, 1, 4094)
        faults.within("mtu", mtu, 576, 65535)
        faults.routes(routes, subnet)
        faults.groups(groups)
        pool = cls(
            PoolName(name), subnet, hop, vlan, tuple(routes), mtu, tuple(spans), notes, _app_ids(groups)
        )
        if not faults.lines and pool.size == 0:
            faults.add("nothing is left to give out: shorten `exclude` or `reservations`")
        if faults.lines:
            raise ConfigRefused(faults.lines)
        return pool

    def allows(self, app: AppId) -> bool:
        """Whether the app is in the subtree of one of the pool's groups."""
        return not self.groups or any(_below(app, group) for group in self.groups)

    def refusal(self, address: IPv4Address) -> str | None:
        """Why the address may never be given out, as the end of a sentence; None if it may be."""
        if address not in self.network:
            return f"is outside {self.network}"
        if address in (self.network.network_address, self.network.broadcast_address):
            return f"is the network or broadcast address of {self.network}"
        if address == self.gateway:
            return "is the gateway"
        if address in self.reservations:
            return f"is reserved: {self.reservations[address]}"
        return next((f"is excluded by {span}" for span in self.excluded if address in span), None)

    @cached_property
    def blocked(self) -> bytes:
        """One byte for each address of the subnet, in order: 1 if it is never given out, else 0."""
        base, count = int(self.network.network_address), self.network.num_addresses
        blocked = bytearray(count)
        blocked[0] = blocked[-1] = 1
        if self.gateway is not None:
            blocked[int(self.gateway) - base] = 1
        for address in self.reservations:
            blocked[int(address) - base] = 1
        for span in self.excluded:
            first, end = int(span.first) - base, int(span.last) - base + 1
            blocked[first:end] = b"\x01" * (end - first)
        return bytes(blocked)

    @cached_property
    def size(self) -> int:
        """How many addresses are assignable."""
        return self.blocked.count(0)

    def assignable(self) -> Iterator[IPv4Address]:
        """The addresses that may be given out, lowest first."""
        position = self.blocked.find(0)
        while position >= 0:
            yield self.network.network_address + position
            position = self.blocked.find(0, position + 1)


class Pools:
    """All pools, by name; no two share an address or a name."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        """Raises `ConfigRefused` with a line for every pair that collides."""
        listed = list(pools)
        ordered = sorted(listed, key=lambda pool: (pool.network.network_address, pool.network.prefixlen))
        faults = [
            f"pools {one.name} ({one.network}) and {two.name} ({two.network}) overlap: "
            "give each address to one pool only"
            for position, one in enumerate(ordered)
            for two in ordered[position + 1 :]
            if one.network.overlaps(two.network)
        ]
        names = [pool.name for pool in listed]
        faults += [f"pool {name} is defined twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        if faults:
            raise ConfigRefused(faults)
        self._by_name = {pool.name: pool for pool in listed}
        self._ordered = ordered

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
            known = ", ".join(sorted(self._by_name)) or "none is configured"
            raise PoolUnknown(f"there is no pool {name!r} (known: {known})")
        return pool

    def containing(self, address: IPv4Address) -> Pool | None:
        """The pool whose subnet the address is in."""
        return next((pool for pool in self._ordered if address in pool.network), None)


class _Faults:
    """Collects what is wrong with one pool's configuration while it is read."""

    def __init__(self, pool: str) -> None:
        self.lines: list[str] = []
        self._pool = pool
        if not pool or not pool.isascii() or not pool.replace("-", "").replace("_", "").isalnum():
            self.add("a name needs letters, digits, '-' and '_' only")

    def add(self, fault: str) -> None:
        self.lines.append(f"pool {self._pool}: {fault}")

    def network(self, text: str) -> IPv4Network | None:
        try:
            network = IPv4Network(text)
        except (AddressValueError, NetmaskValueError):
            self.add(f"network {text!r} is not an IPv4 network such as 10.20.0.0/24")
            return None
        except ValueError:
            self.add(f"network {text!r} has host bits set: write {IPv4Network(text, strict=False)}")
            return None
        if not WIDEST_PREFIX <= network.prefixlen <= NARROWEST_PREFIX:
            self.add(f"network {text} must be from /{WIDEST_PREFIX} to /{NARROWEST_PREFIX}")
            return None
        return network

    def host(self, what: str, text: str, network: IPv4Network) -> IPv4Address | None:
        try:
            address = IPv4Address(text)
        except AddressValueError:
            self.add(f"{what} {text!r} is not an IPv4 address")
            return None
        if address not in network:
            self.add(f"{what} {address} is outside {network}")
        elif address in (network.network_address, network.broadcast_address):
            self.add(f"{what} {address} is the network or broadcast address of {network}")
        else:
            return address
        return None

    def span(self, text: str, network: IPv4Network) -> Span | None:
        first, dash, last = text.partition("-")
        try:
            span = Span(IPv4Address(first.strip()), IPv4Address((last if dash else first).strip()))
        except AddressValueError:
            self.add(f"exclude {text!r} is neither an address nor a range such as 10.20.0.1-10.20.0.9")
            return None
        if span.last < span.first:
            self.add(f"exclude {text!r} ends before it begins")
        elif span.first not in network or span.last not in network:
            self.add(f"exclude {text!r} leaves {network}")
        else:
            return span
        return None

    def within(self, what: str, value: int | None, low: int, high: int) -> None:
        if value is not None and not low <= value <= high:
            self.add(f"{what} {value} must be from {low} to {high}")

    def routes(self, routes: Sequence[Route], network: IPv4Network) -> None:
        for route in routes:
            self.host(f"next hop of route {route.to}", route.via, network)
            try:
                IPv4Network(route.to)
            except ValueError:
                self.add(f"route {route.to!r} is not an IPv4 network such as 10.30.0.0/16")

    def groups(self, groups: Sequence[str]) -> None:
        for group in groups:
            if not group.startswith("/"):
                self.add(f"group {group!r} must be an app id prefix that starts with '/'")


def _app_ids(groups: Sequence[str]) -> tuple[AppId, ...]:
    return tuple(AppId("/" + group.strip("/")) for group in groups)


def _below(app: AppId, group: AppId) -> bool:
    """Whole path elements only: /shop holds /shop and /shop/web, never /shopping."""
    return group == "/" or app == group or app.startswith(f"{group}/")
