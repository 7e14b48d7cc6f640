"""The second addresses of a simulation, reckoned apart from the daemon's own code.

One pool is paired, so every promise about an address is asked of both: a port of that pool has exactly the
partner of its address, and what leads to a partner leads to a lease of the address it belongs to.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

PAIRED, NETWORK = ip_network("10.64.0.0/26"), "fd00:64::/64"
REVERSE_ZONE = "0.0.0.0.0.0.0.0.4.6.0.0.0.0.d.f.ip6.arpa"
_BASE = int(IPv6Address("fd00:64::"))


def partner(address: str) -> str | None:
    """The IPv6 address that whoever has this address has as well."""
    return str(IPv6Address(_BASE + int(ip_address(address)))) if ip_address(address) in PAIRED else None


def both(address: str) -> tuple[str, ...]:
    """The address and its partner, if it has one."""
    second = partner(address)
    return (address,) if second is None else (address, second)


def leased(address: str) -> str:
    """The address whose lease covers this one."""
    number = int(ip_address(address)) - _BASE
    return str(IPv4Address(number)) if 0 <= number < 1 << 32 else address
