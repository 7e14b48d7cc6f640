"""The IPv6 half of a pool: one lease covers both addresses of a container.

The IPv6 address that belongs to an IPv4 address is the pair's network with that address as its lowest 32 bits
(10.64.0.5 in fd00:64::/64 is fd00:64::10.64.0.5, in canonical text fd00:64::a40:5).  It is computed wherever
it is needed and stood in nobody's book: whoever has the lease of the one has the other, and what is cooling,
stranded or in conflict is so for both.  Two IPv4 addresses never share a partner, whatever network they are
in, because each can be read off the partner.

`Pair.parse` is the door, as in `Pool.parse`: it adds to the pool's faults and returns None if there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mooring.ipam.errors import AddressRefused
from mooring.ipam.faults import Faults, edge_of
from mooring.ipam.numbers import Network, address_of

NARROWEST = 96  # 32 bits are left for the IPv4 address
LEAST_MTU = 1280  # of every link that carries IPv6
_LOW = (1 << 32) - 1
_LINK_LOCAL = IPv6Network("fe80::/10")
_NOT_FOR_HOSTS = (IPv6Network("::/8"), _LINK_LOCAL, IPv6Network("ff00::/8"))


@dataclass(frozen=True, slots=True)
class Pair:
    """The IPv6 network beside a pool's own, and its gateway."""

    network: IPv6Network
    gateway: IPv6Address | None = None

    @classmethod
    def parse(
        cls, faults: Faults, subnet: Network, hop: object, network: str | None, gateway: str | None
    ) -> Pair | None:
        """The pair of a pool with that subnet and IPv4 gateway `hop`; None where there is none."""
        if network is None:
            if gateway is not None:
                faults.add("gateway6 needs `ipv6`, the network that it belongs to")
            return None
        found = _network(faults, subnet, network)
        if found is None:
            return None
        pair = cls(found)
        if gateway is None:
            return pair
        own = _gateway(faults, pair, subnet, hop, gateway)
        return None if own is None else cls(found, own)

    def partner(self, address: IPv4Address) -> IPv6Address:
        """The IPv6 address that goes with an IPv4 address."""
        return self.network.network_address + int(address)

    def origin(self, partner: IPv6Address) -> IPv4Address | None:
        """The IPv4 address that an IPv6 address goes with; None if it is none of this network's partners."""
        offset = int(partner) - int(self.network.network_address)
        return IPv4Address(offset) if 0 <= offset <= _LOW else None

    def reaches(self, address: object) -> bool:
        """Whether a container with an address of the pair finds that one on its link."""
        return isinstance(address, IPv6Address) and (address in self.network or address in _LINK_LOCAL)


def _network(faults: Faults, subnet: Network, text: str) -> IPv6Network | None:
    network = faults.any_network(text)
    if network is None:
        return None
    if not isinstance(network, IPv6Network) or not isinstance(subnet, IPv4Network):
        faults.add(f"ipv6 {text} pairs an IPv4 network with an IPv6 network; {subnet} stays alone")
    elif network.prefixlen > NARROWEST:
        faults.add(f"ipv6 {text} has no room for the IPv4 address: give a prefix of at most /{NARROWEST}")
    elif any(network.overlaps(other) for other in _NOT_FOR_HOSTS):
        faults.add(f"ipv6 {text} is not a network for hosts: give a part of fc00::/7 or of your own prefix")
    else:
        return network
    return None


def _gateway(faults: Faults, pair: Pair, subnet: Network, hop: object, text: str) -> IPv6Address | None:
    try:
        address = address_of(text)
    except AddressRefused:
        faults.add(f"gateway6 {text!r} is not an IP address")
        return None
    if not isinstance(address, IPv6Address) or not pair.reaches(address):
        faults.add(f"gateway6 {address} is neither in {pair.network} nor link-local such as fe80::1")
    elif edge := edge_of(address, pair.network):
        faults.add(f"gateway6 {address} {edge}")
    elif (origin := pair.origin(address)) is not None and origin in subnet and origin != hop:
        faults.add(
            f"gateway6 {address} is the partner of {origin}, an address of the pool: "
            f"give the partner of the gateway, another address of {pair.network}, or fe80::1"
        )
    else:
        return address
    return None
