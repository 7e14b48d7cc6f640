"""Telling the neighbours once more where an address lives now.

The kernel announces an address when its link comes up, and that one frame is at times lost: a switch that
just learned of the port, or a tunnel that still resolves its peer, drops it, and a third host then keeps
sending to the old place for minutes.  So the announcement is repeated one second later, by a process of its
own, because nobody should wait for it: it holds only the namespaces, sends, and ends.  IPv4 is announced by a
gratuitous ARP request, IPv6 by an unsolicited neighbour advertisement to all nodes.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from .background import run_apart
from .namespaces import set_namespace
from .netlink import Address, mac_bytes
from .wire import ADVERTISEMENT, icmpv6

DELAY_S = 1.0
BROADCAST = b"\xff" * 6
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
OVERRIDE = 0x20000000  # what the neighbours have cached is not right any more
TARGET_MAC = b"\x02\x01"  # option: target link-layer address, one unit of eight bytes


@dataclass(frozen=True)
class Announcement:
    """An address to announce through an interface of a namespace (given by its descriptor)."""

    namespace: int
    interface: str
    mac: str
    address: Address


def gratuitous_arp(mac: str, address: Address) -> bytes:
    """The Ethernet frame of a gratuitous ARP request, 42 bytes: sender and target are the address itself."""
    hardware = mac_bytes(mac)
    ethernet = BROADCAST + hardware + struct.pack("!H", ETHERTYPE_ARP)
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return ethernet + header + hardware + address.packed + b"\0" * 6 + address.packed


def unsolicited_advertisement(mac: str, address: Address) -> bytes:
    """The Ethernet frame of a neighbour advertisement that nobody asked for, 86 bytes (RFC 4861, 7.2.6)."""
    hardware = mac_bytes(mac)
    body = struct.pack("!I", OVERRIDE) + address.packed + TARGET_MAC + hardware
    message = icmpv6(ADVERTISEMENT, body, address.packed, ALL_NODES)
    return b"\x33\x33" + ALL_NODES[12:] + hardware + struct.pack("!H", ETHERTYPE_IPV6) + message


def announce_later(announcements: list[Announcement]) -> None:
    """Repeat each announcement after DELAY_S, without making the caller wait."""
    if not announcements:
        return

    def announce() -> None:
        time.sleep(DELAY_S)
        _announce(announcements)

    run_apart(announce, [item.namespace for item in announcements])


def _announce(announcements: list[Announcement]) -> None:
    sockets: list[socket.socket] = []
    for item in announcements:
        try:
            set_namespace(item.namespace)
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sockets.append(sender)
            sender.bind((item.interface, ETHERTYPE_ARP))
            frame_of = gratuitous_arp if item.address.version == 4 else unsolicited_advertisement
            sender.send(frame_of(item.mac, item.address))
        except OSError:
            # The container ended within the second: nothing is left to announce.
            continue
