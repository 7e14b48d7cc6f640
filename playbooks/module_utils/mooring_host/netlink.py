"""A small rtnetlink client: links, addresses and routes by message instead of by `ip` process.

One message per change keeps the kernel's own error (EEXIST, ENODEV ...), and a veth pair is born with its
peer already inside the container: name, MAC, MTU and namespace in a single request, so no half-made
interface is ever visible in the host.  A socket speaks to the namespace it was opened in for as long as it
lives.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

# Union and not |, because these are evaluated at run time and hosts may run Python 3.9.
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]  # noqa: UP007
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]  # noqa: UP007

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETNSID = 90
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFLA_IFALIAS, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 20, 28, 37
NETNSA_NSID, NETNSA_FD = 1, 3
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTN_UNICAST, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 254, 1, 0, 253
RTNH_F_ONLINK = 4
IFF_UP = 1
# Our routes are recognised by their protocol number, as those of a routing daemon are; others stay untouched.
ROUTE_PROTOCOL = 77
RTPROT_UNSPEC, RTPROT_KERNEL = 0, 2
REPLY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Link:
    """One network device as the kernel describes it.

    `peer` is the other end's index for a veth, in the namespace with the number `beyond`; None: in the same.
    """

    index: int
    name: str
    up: bool
    mac: str
    mtu: int
    peer: int | None
    alias: str
    beyond: int | None = None


@dataclass(frozen=True)
class Route:
    """One route of the main table: `via` is None when the destination is on the link itself."""

    to: Network
    via: Address | None


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one netlink attribute, padded to four bytes."""
    return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def text(value: str) -> bytes:
    """Encode a name as netlink wants it: with a terminating zero."""
    return value.encode() + b"\0"


def attributes(data: bytes) -> dict[int, bytes]:
    """Decode a run of attributes; the last of equal kinds wins."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def mac_bytes(mac: str) -> bytes:
    """Turn `02:00:0a:40:00:0a` into its six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def _link_header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def _family(address: Address | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Netlink:
    """An rtnetlink socket in the namespace that was current when it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(REPLY_TIMEOUT_S)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """Send one request and yield the body of every answer; raises OSError with the kernel's error."""
        self._sequence += 1
        header = struct.pack("=IHHII", len(body) + 16, kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            data = self._socket.recv(1 << 20)
            while data:
                length, answer, _flags, sequence, _port = struct.unpack_from("=IHHII", data)
                payload, data = data[16:length], data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_DONE:
                    return
                if answer == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield payload

    def _change(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._request(kind, flags | NLM_F_ACK, body):
            pass

    # Links

    def links(self) -> dict[str, Link]:
        """All devices of the namespace by name."""
        found = (self._link(body) for body in self._request(RTM_GETLINK, NLM_F_DUMP, _link_header()))
        return {link.name: link for link in found}

    @staticmethod
    def _link(body: bytes) -> Link:
        index, flags = struct.unpack_from("=iI", body, 4)
        found = attributes(body[16:])
        return Link(
            index=index,
            name=found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
            up=bool(flags & IFF_UP),
            mac=found.get(IFLA_ADDRESS, b"").hex(":"),
            mtu=struct.unpack("=I", found.get(IFLA_MTU, b"\0\0\0\0"))[0],
            peer=struct.unpack("=i", found[IFLA_LINK])[0] if IFLA_LINK in found else None,
            alias=found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
            beyond=struct.unpack("=i", found[IFLA_LINK_NETNSID])[0] if IFLA_LINK_NETNSID in found else None,
        )

    def number_of(self, namespace: int) -> int:
        """By which number this namespace knows another one (a descriptor); -1: no device here leads there."""
        body = struct.pack("=B3x", 0) + attribute(NETNSA_FD, struct.pack("=I", namespace))
        for answer in self._request(RTM_GETNSID, 0, body):
            return int(struct.unpack("=i", attributes(answer[4:])[NETNSA_NSID])[0])
        return -1

    def create_veth(self, name: str, peer: str, namespace: int, mac: str, mtu: int | None) -> None:
        """Create `name` here and `peer` inside `namespace` (a descriptor), both down."""
        size = attribute(IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        other = _link_header() + attribute(IFLA_IFNAME, text(peer)) + size
        other += attribute(IFLA_ADDRESS, mac_bytes(mac))
        other += attribute(IFLA_NET_NS_FD, struct.pack("=I", namespace))
        data = attribute(IFLA_INFO_DATA | NLA_F_NESTED, attribute(VETH_INFO_PEER | NLA_F_NESTED, other))
        info = attribute(IFLA_LINKINFO | NLA_F_NESTED, attribute(IFLA_INFO_KIND, b"veth") + data)
        body = _link_header() + attribute(IFLA_IFNAME, text(name)) + size + info
        self._change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)

    def set_link(
        self, name: str, *, up: bool | None = None, alias: str | None = None, mtu: int | None = None
    ) -> None:
        """Change the given properties of the device `name`."""
        flags, change = (IFF_UP if up else 0, IFF_UP) if up is not None else (0, 0)
        body = _link_header(0, flags, change) + attribute(IFLA_IFNAME, text(name))
        if alias is not None:
            body += attribute(IFLA_IFALIAS, alias.encode())
        if mtu is not None:
            body += attribute(IFLA_MTU, struct.pack("=I", mtu))
        self._change(RTM_NEWLINK, 0, body)

    def delete_link(self, name: str) -> bool:
        """Delete the device `name` (with it its veth peer); False if it was not there."""
        try:
            self._change(RTM_DELLINK, 0, _link_header() + attribute(IFLA_IFNAME, text(name)))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    # Addresses

    def addresses(self, index: int) -> list[tuple[Address, int]]:
        """(address, prefix length) of every address on the device."""
        found: list[tuple[Address, int]] = []
        for body in self._request(RTM_GETADDR, NLM_F_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            prefix, where = body[1], struct.unpack_from("=I", body, 4)[0]
            values = attributes(body[8:])
            raw = values.get(IFA_LOCAL, values.get(IFA_ADDRESS))
            if where == index and raw is not None:
                found.append((ipaddress.ip_address(raw), prefix))
        return found

    def device_of(self, address: Address) -> Link | None:
        """The device that has the address, if there is one."""
        links = self.links().values()
        return next(
            (link for link in links if any(address == one for one, _ in self.addresses(link.index))), None
        )

    def set_address(self, index: int, address: Address, prefix: int) -> None:
        """Put the address on the device, replacing the same one."""
        self._change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, self._address(index, address, prefix))

    def delete_address(self, index: int, address: Address, prefix: int) -> None:
        """Take the address off the device."""
        self._change(RTM_DELADDR, 0, self._address(index, address, prefix))

    @staticmethod
    def _address(index: int, address: Address, prefix: int) -> bytes:
        # Duplicate detection of IPv6 would hold the address back for a second; the daemon leases it uniquely.
        flags = IFA_F_NODAD if address.version == 6 else 0
        body = struct.pack("=BBBBI", _family(address), prefix, flags, 0, index)
        body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
        if address.version == 4 and prefix < 31:
            network = ipaddress.ip_network((int(address), prefix), strict=False)
            body += attribute(IFA_BROADCAST, network.broadcast_address.packed)
        return body

    # Routes

    def routes(self, index: int) -> dict[Route, int]:
        """Unicast routes of the main table that leave through the device, with their protocol numbers."""
        found: dict[Route, int] = {}
        for body in self._request(RTM_GETROUTE, NLM_F_DUMP, struct.pack("=BBBBBBBBI", *([0] * 9))):
            family, length, _source, _tos, table, protocol, _scope, kind = struct.unpack_from("=8B", body)
            values = attributes(body[12:])
            out = struct.unpack("=I", values.get(RTA_OIF, b"\0\0\0\0"))[0]
            if table != RT_TABLE_MAIN or kind != RTN_UNICAST or out != index:
                continue
            size = 4 if family == socket.AF_INET else 16
            to = ipaddress.ip_network((values.get(RTA_DST, b"\0" * size), length))
            via = ipaddress.ip_address(values[RTA_GATEWAY]) if RTA_GATEWAY in values else None
            found[Route(to, via)] = protocol
        return found

    def replace_route(self, index: int, route: Route) -> None:
        """Set the route, replacing another to its destination; the gateway may lie outside our subnet."""
        self._change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, self._route(index, route))

    def delete_route(self, index: int, route: Route, protocol: int = ROUTE_PROTOCOL) -> None:
        """Remove exactly this route; of another protocol than ours if asked (RTPROT_UNSPEC: any)."""
        self._change(RTM_DELROUTE, 0, self._route(index, route, protocol))

    @staticmethod
    def _route(index: int, route: Route, protocol: int = ROUTE_PROTOCOL) -> bytes:
        scope = RT_SCOPE_UNIVERSE if route.via or route.to.version == 6 else RT_SCOPE_LINK
        flags = RTNH_F_ONLINK if route.via else 0
        body = struct.pack(
            "=BBBBBBBBI",
            _family(route.to), route.to.prefixlen, 0, 0,
            RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, flags,
        )  # fmt: skip
        body += attribute(RTA_OIF, struct.pack("=I", index))
        if route.to.prefixlen:
            body += attribute(RTA_DST, route.to.network_address.packed)
        if route.via:
            body += attribute(RTA_GATEWAY, route.via.packed)
        return body
