"""What is wrong with one pool's plain values: every fault at once, each with its remedy.

Used by `Pool.parse` and `Supernet.parse` alone, which raise one `ConfigRefused` with all the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from mooring.core.specs import Route
from mooring.ipam.errors import AddressRefused
from mooring.ipam.numbers import Address, Network, address_of

MANAGED = "managed"
_LONGEST_NAME = 64

# From the widest to the narrowest subnet of each family.
PREFIXES = {4: (12, 30), 6: (48, 126)}


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses from `first` to `last`, both included and of one family."""

    first: Address
    last: Address

    def __contains__(self, address: Address) -> bool:
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def edge_of(address: Address, network: Network) -> str | None:
    """What the address is if it can belong to no container: network, broadcast or anycast address."""
    if network.version == 6:
        anycast = address == network.network_address
        return f"is the subnet-router anycast address of {network}" if anycast else None
    if address in (network.network_address, network.broadcast_address):
        return f"is the network or broadcast address of {network}"
    return None


class Faults:
    """Collects what is wrong while a pool is read."""

    def __init__(self, kind: str, name: str) -> None:
        self.lines: list[str] = []
        self._of = f"{kind} {name}"
        if len(name) > _LONGEST_NAME:
            self.add(f"a name has at most {_LONGEST_NAME} characters")
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            self.add("a name needs letters, digits, '-' and '_' only")

    def add(self, fault: str) -> None:
        self.lines.append(f"{self._of}: {fault}")

    def network(self, text: str) -> Network | None:
        """The subnet, if it is one whose size a pool may have."""
        network = self.any_network(text)
        if network is None:
            return None
        widest, narrowest = PREFIXES[network.version]
        if not widest <= network.prefixlen <= narrowest:
            self.add(f"network {text} must be from /{widest} to /{narrowest}")
            return None
        return network

    def any_network(self, text: str) -> Network | None:
        try:
            if "%" in text:  # a scope belongs to one machine
                raise ValueError(text)
            loose = ip_network(text, strict=False)
        except ValueError:
            self.add(f"network {text!r} is not an IP network such as 10.20.0.0/24 or fd00:20::/64")
            return None
        try:
            return ip_network(text)
        except ValueError:
            self.add(f"network {text!r} has host bits set: write {loose}")
            return None

    def host(self, what: str, text: str, network: Network) -> Address | None:
        """An address that a host in the subnet could have."""
        try:
            address = address_of(text)
        except AddressRefused:
            self.add(f"{what} {text!r} is not an IP address")
            return None
        if address not in network:
            self.add(f"{what} {address} is outside {network}")
        elif edge := edge_of(address, network):
            self.add(f"{what} {address} {edge}")
        else:
            return address
        return None

    def managed(self, gateway: str | None, host: str | None, nat: bool) -> None:
        """Whether somebody is named to keep a gateway that is ours."""
        if gateway == MANAGED and not host:
            self.add('gateway "managed" needs `gateway_host`, the host of the inventory that shall be it')
        if nat and not host:
            self.add("`gateway_nat` needs `gateway_host`: only a gateway of ours can mask addresses")

    def span(self, text: str, network: Network) -> Span | None:
        """An address, or a range of them."""
        first, dash, last = text.partition("-")
        try:
            span = Span(address_of(first.strip()), address_of((last if dash else first).strip()))
        except AddressRefused:
            self.add(f"exclude {text!r} is neither an address nor a range such as 10.20.0.1-10.20.0.9")
            return None
        if span.first not in network or span.last not in network:
            self.add(f"exclude {text!r} leaves {network}")
        elif int(span.last) < int(span.first):
            self.add(f"exclude {text!r} ends before it begins")
        else:
            return span
        return None

    def within(self, what: str, value: int | None, low: int, high: int) -> None:
        if value is not None and not low <= value <= high:
            self.add(f"{what} {value} must be from {low} to {high}")

    def routes(
        self, routes: Sequence[Route], network: Network, beside: Callable[[Address], bool] | None = None
    ) -> None:
        """`beside` tells which next hops the network that `network` is paired with has; None: no such."""
        for route in routes:
            try:
                to = ip_network(route.to)
            except ValueError:
                self.add(f"route {route.to!r} is not an IP network such as 10.30.0.0/16")
                continue
            if to.version == network.version:
                self.host(f"next hop of route {route.to}", route.via, network)
            elif beside is None:
                self.add(f"route {route.to} is not of the family of {network}")
            else:
                self._hop_beside(route, beside)

    def _hop_beside(self, route: Route, beside: Callable[[Address], bool]) -> None:
        try:
            reached = beside(address_of(route.via))
        except AddressRefused:
            reached = False
        if not reached:
            self.add(f"next hop {route.via!r} of route {route.to} is not in the pool's IPv6 network")

    def groups(self, groups: Sequence[str]) -> None:
        for group in groups:
            if not group.startswith("/"):
                self.add(f"group {group!r} must be an app id prefix that starts with '/'")
