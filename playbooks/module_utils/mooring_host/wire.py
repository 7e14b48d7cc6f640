"""Frames of duplicate-address detection: the probes we send, and what others' frames tell.

IPv4 (RFC 5227): an ARP request without a sender address asks; every ARP packet with the address as its
sender's answers.  IPv6 (RFC 4862): a neighbour solicitation from `::` asks, a neighbour advertisement for the
address answers.  A request without a sender from somebody else is a probe of theirs.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from .netlink import Address

ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ARP_HEADER = struct.pack("!HHBB", 1, 0x0800, 6, 4)
ICMPV6, SOLICITATION, ADVERTISEMENT = 58, 135, 136
BROADCAST = b"\xff" * 6
SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
NOBODY_4, NOBODY_6 = b"\0" * 4, b"\0" * 16


@dataclass(frozen=True)
class Heard:
    """Somebody uses an address, or probes for it."""

    address: Address
    mac: str
    probes: bool


def frame_for(address: Address, hardware: bytes) -> bytes:
    """The probe for an address, sent from the MAC `hardware` (six bytes)."""
    return _arp_probe(address, hardware) if address.version == 4 else _solicitation(address, hardware)


def read_frame(frame: bytes) -> Heard | None:
    """What a frame tells about an address; None if it tells nothing."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETHERTYPE_ARP:
        return _read_arp(frame[14:])
    if kind == ETHERTYPE_IPV6:
        return _read_icmpv6(frame[14:], frame[6:12])
    return None


def _arp_probe(address: Address, hardware: bytes) -> bytes:
    ethernet = BROADCAST + hardware + struct.pack("!H", ETHERTYPE_ARP)
    return ethernet + ARP_HEADER + b"\0\x01" + hardware + NOBODY_4 + b"\0" * 6 + address.packed


def _solicitation(address: Address, hardware: bytes) -> bytes:
    group = SOLICITED_NODE + address.packed[13:]
    packet = icmpv6(SOLICITATION, b"\0" * 4 + address.packed, NOBODY_6, group)
    return b"\x33\x33" + group[12:] + hardware + struct.pack("!H", ETHERTYPE_IPV6) + packet


def icmpv6(kind: int, body: bytes, sender: bytes, target: bytes) -> bytes:
    """An IPv6 packet with an ICMPv6 message of an even number of bytes; addresses are 16 bytes each."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    checksum = _checksum(sender + target + struct.pack("!II", len(message), ICMPV6) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    # Hop limit 255 proves to the receiver that no router has passed it on.
    return struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255) + sender + target + message


def _checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _read_arp(packet: bytes) -> Heard | None:
    if len(packet) < 28 or packet[:6] != ARP_HEADER:
        return None
    mac, sender, target = packet[8:14].hex(":"), packet[14:18], packet[24:28]
    if sender == NOBODY_4:
        return Heard(ipaddress.IPv4Address(target), mac, probes=True)
    return Heard(ipaddress.IPv4Address(sender), mac, probes=False)


def _read_icmpv6(packet: bytes, hardware: bytes) -> Heard | None:
    if len(packet) < 64 or packet[6] != ICMPV6:
        return None
    kind, sender, target = packet[40], packet[8:24], packet[48:64]
    if kind == ADVERTISEMENT:
        return Heard(ipaddress.IPv6Address(target), hardware.hex(":"), probes=False)
    if kind == SOLICITATION and sender == NOBODY_6:
        return Heard(ipaddress.IPv6Address(target), hardware.hex(":"), probes=True)
    return None
