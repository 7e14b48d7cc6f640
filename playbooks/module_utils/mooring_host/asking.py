"""Does anybody on the wire have an address that one of this host's own devices is about to get?

The same question as in `detect`, asked from a device that is there already and has no address yet: three
probes within a short window, and whatever names the address as its sender's is an answer.  Probes come from a
MAC of the host's own, not from the device's: a gateway that moves has the same MAC on both hosts, and asking
with it would draw the traffic over before it is known that the other has let go.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import time

from .host import Host
from .netlink import Address, Link, mac_bytes
from .wire import frame_for, read_frame

PAUSES_END_S = (0.06, 0.12, 0.2)  # a probe, then listening until that moment; the last ends the window
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4


def who_has(host: Host, link: Link, address: Address) -> list[str]:
    """The MACs that use the address in the device's VLAN; the device is down afterwards."""
    mac = (b"\x0a\x00" + hashlib.sha256(host.switch().uuid.encode()).digest()[:4]).hex(":")
    host.netlink.set_link(link.name, up=True)
    found: set[str] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as ear:
        ear.setblocking(False)
        ear.bind((link.name, ETH_P_ALL))
        began = time.monotonic()
        for end in PAUSES_END_S:
            ear.send(frame_for(address, mac_bytes(mac)))
            while (left := began + end - time.monotonic()) > 0:
                select.select([ear], [], [], left)
                found |= _heard(ear, address)
    # Down again: the kernel announces an address when its device comes up.
    host.netlink.set_link(link.name, up=False)
    return sorted(found - {mac})


def _heard(ear: socket.socket, address: Address) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            data, (_, _, kind, *_) = ear.recvfrom(256)
            heard = None if kind == PACKET_OUTGOING else read_frame(data)
            if heard is not None and heard.address == address and not heard.probes:
                found.add(heard.mac)
    return found
