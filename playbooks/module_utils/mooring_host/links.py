"""The container's end of the wire: what the interface must look like, what differs, and how to mend it.

The state is read first and only differences are applied, so a second run changes nothing.  The order of the
changes matters: offload and the kernel's settings before the addresses, the addresses before the link goes
up, because the kernel announces them (gratuitous ARP, neighbour advertisement) at the moment the link comes
up and only then; routes come last, they need a link that is up.

An interface has one address, or one of either family.  An IPv6 address that ends in the interface's IPv4
address and is not wanted is what such a pair was before its network changed, and goes.  Addresses and routes
come from us alone: what a router on the wire advertises (`accept_ra`, `autoconf`) is not followed.

An engine turns IPv6 off in a container that gets no network of its own, on the loopback device as well.
There it has to be on for the container to reach its own address.

The MAC is derived from the address, so that neighbours which cached it stay right when the address moves to
a new container.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .namespaces import NetworkNamespace
from .netlink import ROUTE_PROTOCOL, RTPROT_KERNEL, RTPROT_UNSPEC, Address, Link, Netlink, Route

SIOCETHTOOL = 0x8946
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
# What the kernel has to do on an interface of ours, by version of IP. It says who lives there when the link
# comes up; and IPv6 is on, with the addresses that we give and no others.
_SETTINGS: dict[int, dict[str, str]] = {
    4: {"arp_notify": "1"},
    6: {"ndisc_notify": "1", "accept_ra": "0", "autoconf": "0", "disable_ipv6": "0"},
}


@dataclass(frozen=True)
class Interface:
    """What an interface must look like; `offload` False turns TX checksum offload off."""

    name: str
    addresses: tuple[tuple[Address, int], ...]  # with prefix lengths; the leased one, its partner of IPv6
    mac: str
    mtu: int | None
    routes: frozenset[Route]
    offload: bool
    alias: str

    @property
    def families(self) -> tuple[int, ...]:
        """The versions of IP that it speaks."""
        return tuple(address.version for address, _ in self.addresses)


@dataclass(frozen=True)
class View:
    """What an interface looks like now."""

    link: Link
    addresses: frozenset[tuple[Address, int]]
    routes: dict[Route, int]
    offload: bool
    unset: frozenset[tuple[int, str]] = frozenset()  # settings of the kernel that are not as they have to be
    loops: bool = True  # whether the container reaches its own address


def mac_for(address: Address) -> str:
    """The MAC of an address: 02:00 and the four octets of IPv4, 06:00 and a hash of IPv6."""
    if address.version == 4:
        return (b"\x02\x00" + address.packed).hex(":")
    return (b"\x06\x00" + hashlib.sha256(address.packed).digest()[:4]).hex(":")


def routes_for(gateways: Iterable[str | None], routes: list[tuple[str, str | None]]) -> frozenset[Route]:
    """All routes an interface needs: a default by each gateway, for its family, and the given ones."""
    found = {
        Route(ipaddress.ip_network(to), ipaddress.ip_address(via) if via else None) for to, via in routes
    }
    for hop in (ipaddress.ip_address(gateway) for gateway in gateways if gateway):
        found.add(Route(ipaddress.ip_network("0.0.0.0/0" if hop.version == 4 else "::/0"), hop))
    return frozenset(found)


def differences(view: View, wanted: Interface) -> list[str]:
    """Name every property in which the interface differs from what is wanted."""
    checks = {
        "mac": view.link.mac == wanted.mac,
        "alias": view.link.alias == wanted.alias,
        "mtu": wanted.mtu is None or view.link.mtu == wanted.mtu,
        "offload": wanted.offload or not view.offload,
        "settings": not view.unset,
        "loopback": view.loops,
        "address": _concerned(view, wanted) == set(wanted.addresses),
        "link": view.link.up,
        "routes": wanted.routes <= set(view.routes) and not _surplus_routes(view, wanted),
    }
    return [name for name, holds in checks.items() if not holds]


def _concerned(view: View, wanted: Interface) -> set[tuple[Address, int]]:
    """The wanted addresses that are there, with whatever prefix, and former partners; others' stay."""
    own = [address for address, _ in wanted.addresses]
    return {
        (address, prefix)
        for address, prefix in view.addresses
        if address in own or _is_partner(address, own[0])
    }


def _is_partner(address: Address, own: Address) -> bool:
    pair = (own.version, address.version) == (4, 6) and not address.is_link_local
    return pair and address.packed[12:] == own.packed


def _surplus_routes(view: View, wanted: Interface) -> list[Route]:
    """Routes that we set once and that are no longer wanted; those of others stay."""
    return [
        route
        for route, protocol in view.routes.items()
        if protocol == ROUTE_PROTOCOL and route not in wanted.routes
    ]


class ContainerLinks:
    """The devices inside one container's namespace."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self._namespace = namespace
        with namespace.entered():
            self._netlink = Netlink()
            self._ioctl = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Close the sockets inside the namespace."""
        self._netlink.close()
        self._ioctl.close()

    def __enter__(self) -> ContainerLinks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def links(self) -> dict[str, Link]:
        """All devices of the container by name."""
        return self._netlink.links()

    def addresses(self, index: int) -> list[tuple[Address, int]]:
        """(address, prefix length) of every address of one of its devices."""
        return self._netlink.addresses(index)

    def routes(self, index: int) -> dict[Route, int]:
        """The routes that leave through one of its devices, with their protocol numbers."""
        return self._netlink.routes(index)

    def set_alias(self, name: str, alias: str) -> None:
        """Leave our mark on a device; its traffic goes on."""
        self._netlink.set_link(name, alias=alias)

    def take_routes(self, view: View, wanted: Interface) -> None:
        """Make the routes of an interface ours that another program of our bidding has just made.

        What is not wanted goes, what is wanted is known by its protocol from now on; the kernel's own stay.
        """
        for route, protocol in view.routes.items():
            if protocol in (RTPROT_KERNEL, ROUTE_PROTOCOL):
                continue
            if route in wanted.routes:
                self._netlink.replace_route(view.link.index, route)
            else:
                self._netlink.delete_route(view.link.index, route, protocol=RTPROT_UNSPEC)

    def delete(self, name: str) -> None:
        """Delete a device of the container, and with it its peer on the host."""
        self._netlink.delete_link(name)

    def view(self, name: str, families: Sequence[int]) -> View | None:
        """Read one interface as far as these versions of IP go; None if there is none of that name."""
        link = self.links().get(name)
        if link is None:
            return None
        return View(
            link=link,
            addresses=frozenset(self._netlink.addresses(link.index)),
            routes=self._netlink.routes(link.index),
            offload=self._offload(name),
            unset=frozenset(
                (version, setting)
                for version in families
                for setting, value in _SETTINGS[version].items()
                if self._read_setting(version, name, setting) != value
            ),
            loops=6 not in families or self._read_setting(6, "lo", "disable_ipv6") != "1",
        )

    def configure(self, view: View, wanted: Interface) -> None:
        """Apply what differs, in the order the module header gives."""
        differing = set(differences(view, wanted))
        name, index = wanted.name, view.link.index
        if differing & {"alias", "mtu"}:
            self._netlink.set_link(name, alias=wanted.alias, mtu=wanted.mtu)
        if "offload" in differing:
            self._disable_offload(name)
        for version, setting in sorted(view.unset):
            self._write_setting(version, name, setting, _SETTINGS[version][setting])
        if "loopback" in differing:
            self._write_setting(6, "lo", "disable_ipv6", "0")
        if "address" in differing:
            self._set_addresses(index, view, wanted)
        if "link" in differing:
            self._netlink.set_link(name, up=True)
        if differing & {"routes", "address", "link"}:
            self._set_routes(index, wanted)

    def _set_addresses(self, index: int, view: View, wanted: Interface) -> None:
        for address, prefix in _concerned(view, wanted) - set(wanted.addresses):
            self._netlink.delete_address(index, address, prefix)
        for address, prefix in wanted.addresses:
            self._netlink.set_address(index, address, prefix)

    def _set_routes(self, index: int, wanted: Interface) -> None:
        present = self._netlink.routes(index)
        for route, protocol in present.items():
            if protocol == ROUTE_PROTOCOL and route not in wanted.routes:
                self._netlink.delete_route(index, route)
        # On-link destinations first: a gateway may lie in one of them.
        for route in sorted(wanted.routes - set(present), key=lambda route: route.via is not None):
            self._netlink.replace_route(index, route)

    def _offload(self, name: str) -> bool:
        return bool(self._ethtool(name, ETHTOOL_GTXCSUM))

    def _disable_offload(self, name: str) -> None:
        self._ethtool(name, ETHTOOL_STXCSUM, 0)

    def _ethtool(self, name: str, command: int, value: int = 0) -> int:
        # struct ifreq holds a pointer to struct ethtool_value; the buffer must stay alive during the call.
        argument = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
        request = struct.pack("=16sQ16x", name.encode(), ctypes.addressof(argument))
        fcntl.ioctl(self._ioctl.fileno(), SIOCETHTOOL, request)
        return int(struct.unpack("=II", argument.raw)[1])

    def _read_setting(self, version: int, name: str, setting: str) -> str:
        with self._namespace.entered(), contextlib.suppress(FileNotFoundError):
            return _setting_path(version, name, setting).read_text(encoding="ascii").strip()
        return ""

    def _write_setting(self, version: int, name: str, setting: str, value: str) -> None:
        with self._namespace.entered():
            _setting_path(version, name, setting).write_text(value, encoding="ascii")


def silence_host_end(name: str) -> None:
    """Keep the host's own stack from talking on a container's wire; to be called before the device is up.

    Under a userspace switch the kernel sees every frame as well: it would answer ARP for the host's addresses
    and offer the host to the container by its IPv6 link-local address.
    """
    _setting_path(4, name, "arp_ignore").write_text("8", encoding="ascii")
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        _setting_path(6, name, "disable_ipv6").write_text("1", encoding="ascii")


def _setting_path(version: int, name: str, setting: str) -> Path:
    return Path(f"/proc/sys/net/ipv{version}/conf/{name}/{setting}")
