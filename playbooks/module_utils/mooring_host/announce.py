"""Telling the neighbours once more where an address lives now.

The kernel announces an address when its link comes up, and that one frame is at times lost: a switch that
just learned of the port, or a tunnel that still resolves its peer, drops it, and a third host then keeps
sending to the old place for minutes.  So the announcement is repeated one second later, by a process of its
own, because nobody should wait for it: it holds only the namespaces, sends, and ends.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from .background import run_apart
from .namespaces import set_namespace
from .netlink import Address, mac_bytes

DELAY_S = 1.0
BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806


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


def announce_later(announcements: list[Announcement]) -> None:
    """Repeat the announcement of each IPv4 address after DELAY_S, without making the caller wait.

    IPv6 neighbours are told by the kernel (ndisc_notify) and ask again themselves when a MAC is silent.
    """
    announcements = [item for item in announcements if item.address.version == 4]
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
            sender.send(gratuitous_arp(item.mac, item.address))
        except OSError:
            # The container ended within the second: nothing is left to announce.
            continue
