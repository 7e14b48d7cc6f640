"""Supernets: networks from which pools are generated, each with a VLAN of its own.

`next_pool` gives the lowest subnet of the agreed size that shares no address with any pool, and the first
VLAN of the supernet's list that no pool uses.  The search jumps from pool to pool and never counts subnets,
so a /48 with thousands of them costs no more than its pools.  A pool that was generated stands on its own
afterwards: it is stored like one that was added by hand, and only remembers where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal

from mooring.core.errors import ConfigRefused
from mooring.core.model import HostName, PoolName, PoolSpec
from mooring.ipam.errors import SupernetExhausted
from mooring.ipam.faults import PREFIXES, Faults
from mooring.ipam.numbers import Network, place
from mooring.ipam.pools import Pools

Gateway = Literal["first", "last", "none"]
_HIGHEST_VLAN = 4094


@dataclass(frozen=True, slots=True)
class Supernet:
    """Where pools come from. Build it with `Supernet.parse`."""

    name: str
    network: Network
    prefix: int
    vlans: tuple[int, ...] = ()  # in the order in which they are used; empty: pools are untagged
    gateway: Gateway = "first"
    mtu: int | None = None
    groups: tuple[str, ...] = ()
    gateway_host: str | None = None
    gateway_nat: bool = False

    @classmethod
    def parse(
        cls,
        name: str,
        network: str,
        prefix: int | None = None,
        *,
        vlans: str = "",
        gateway: Gateway = "first",
        mtu: int | None = None,
        groups: Sequence[str] = (),
        gateway_host: str | None = None,
        gateway_nat: bool = False,
    ) -> Supernet:
        """Build a supernet from plain values; `vlans` such as "100-199,300". Raises `ConfigRefused`.

        `prefix` is that of the pools: 24 for IPv4 and 64 for IPv6 unless it is given.
        """
        faults = Faults("supernet", name)
        found = faults.any_network(network)
        if found is None:
            raise ConfigRefused(faults.lines)
        length = prefix if prefix is not None else (24 if found.version == 4 else 64)
        widest, narrowest = PREFIXES[found.version]
        faults.within("prefix", length, max(widest, found.prefixlen), narrowest)
        faults.within("mtu", mtu, 576 if found.version == 4 else 1280, 65535)
        faults.groups(groups)
        faults.managed(None, gateway_host, gateway_nat)
        if gateway == "none" and gateway_host:
            faults.add('gateway "none" and `gateway_host` exclude each other: take one out')
        tags = _vlans(vlans, faults)
        if faults.lines:
            raise ConfigRefused(faults.lines)
        return cls(name, found, length, tags, gateway, mtu, tuple(groups), gateway_host, gateway_nat)

    def next_pool(self, name: str, pools: Pools, groups: Sequence[str] = ()) -> PoolSpec:
        """A pool that clashes with none of these. Raises `SupernetExhausted`."""
        subnet = self._next_subnet(pools)
        gateway = {"first": subnet.network_address + 1, "last": _last_host(subnet), "none": None}[
            self.gateway
        ]
        return PoolSpec(
            PoolName(name),
            str(subnet),
            None if gateway is None else str(gateway),
            self._next_vlan(pools),
            self.mtu,
            groups=tuple(groups) or self.groups,
            supernet=self.name,
            gateway_host=HostName(self.gateway_host) if self.gateway_host else None,
            gateway_nat=self.gateway_nat,
        )

    def _next_subnet(self, pools: Pools) -> Network:
        size = 1 << (self.network.max_prefixlen - self.prefix)
        begin = place(self.network.network_address)
        position = 0  # counted from the supernet's first address
        for first, last in self._taken(pools):
            if first - begin >= position + size:
                break
            position = max(position, -(-(last + 1 - begin) // size) * size)
        if position + size > self.network.num_addresses:
            raise SupernetExhausted(
                f"supernet {self.name}: no /{self.prefix} of {self.network} is left; enlarge it, "
                "or remove a pool that nobody needs"
            )
        return ip_network((self.network.network_address + position, self.prefix))

    def _taken(self, pools: Pools) -> Iterator[tuple[int, int]]:
        """First and last place of every pool that has addresses of this supernet, in order."""
        begin, end = place(self.network.network_address), place(self.network.broadcast_address)
        spans = sorted(span for pool in pools for span in pool.spans)
        yield from ((first, last) for first, last in spans if first <= end and last >= begin)

    def _next_vlan(self, pools: Pools) -> int | None:
        if not self.vlans:
            return None
        used = {pool.vlan for pool in pools}
        free = next((vlan for vlan in self.vlans if vlan not in used), None)
        if free is None:
            raise SupernetExhausted(
                f"supernet {self.name}: each of its {len(self.vlans)} VLANs is in use; "
                "add VLANs to its list, or remove a pool that nobody needs"
            )
        return free


def _last_host(subnet: Network) -> object:
    """The last address that a router can have; IPv6 has no broadcast."""
    return subnet.broadcast_address - 1 if subnet.version == 4 else subnet.broadcast_address


def _vlans(text: str, faults: Faults) -> tuple[int, ...]:
    """ "100-199,300" as numbers, in that order, each once."""
    found: dict[int, None] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, dash, last = part.partition("-")
        ends = (first.strip(), (last if dash else first).strip())
        if not all(end.isascii() and end.isdigit() for end in ends):
            faults.add(f"vlans {part!r} is neither a number nor a range such as 100-199")
            continue
        low, high = map(int, ends)
        if not 1 <= low <= high <= _HIGHEST_VLAN:
            faults.add(f"vlans {part!r} must rise and be from 1 to {_HIGHEST_VLAN}")
            continue
        found |= dict.fromkeys(range(low, high + 1))
    return tuple(found)
