"""Addresses as text, as objects and as numbers.

Leases carry addresses as text in canonical form (lower case, shortest), because that is what a store, a
switch port and a person need.  To find an address in a pool it must be a number.  `place_of` puts both
families on one line, IPv4 first, so that one sorted list of pools serves for both and ::1 is never
taken for 0.0.0.1.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import AF_INET, AF_INET6, inet_pton

from mooring.ipam.errors import AddressRefused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_IPV6_BEGINS = 1 << 128  # more than any address


def address_of(text: str) -> Address:
    """The address in that text. Raises `AddressRefused`; also for a scope such as in fe80::1%eth0."""
    try:
        if "%" in text:
            raise AddressValueError(text)
        return ip_address(text)
    except ValueError as error:
        raise AddressRefused(f"{text!r} is not an IP address") from error


def place(address: Address) -> int:
    """Where the address is on the line of both families."""
    return int(address) if address.version == 4 else _IPV6_BEGINS + int(address)


def place_of(text: str) -> int:
    """The same for canonical text, several times faster. Raises `AddressRefused`."""
    try:
        if ":" in text:
            return _IPV6_BEGINS + int.from_bytes(inet_pton(AF_INET6, text))
        return int.from_bytes(inet_pton(AF_INET, text))
    except (OSError, ValueError) as error:
        raise AddressRefused(f"{text!r} is not an IP address") from error
