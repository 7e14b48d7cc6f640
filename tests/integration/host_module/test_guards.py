"""What a container's root may say through a guarded port of a real switch, and to whom."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable

import pytest

from mooring.playbooks.module_utils.mooring_host.guards import link_local
from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace

from .rig import HostRig, run, until
from .speaking import (
    ARP,
    IP,
    IPV6,
    NEIGHBOUR,
    NEIGHBOUR6,
    NEIGHBOUR_MAC,
    Speaker,
    arp,
    dropped,
    ethernet,
    heard,
    icmpv6,
    ipv4,
    ipv6,
    speaker,
    udp,
    with_ipv6,
)
from .test_ports import ours

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("guardian")]


Make = Callable[[Speaker], bytes]
FALSE_4: dict[str, tuple[Make, str]] = {
    "another's address": (
        lambda me: ethernet(me.mac, IP, ipv4(NEIGHBOUR, "10.64.0.1", udp(9, 9))), "address"),
    "no address": (lambda me: ethernet(me.mac, IP, ipv4("0.0.0.0", "10.64.0.1", udp(68, 67))), "address"),
    "another's MAC": (
        lambda me: ethernet(NEIGHBOUR_MAC, IP, ipv4(me.address, "10.64.0.1", udp(9, 9))), "mac"),
    "another's ARP sender": (lambda me: ethernet(me.mac, ARP, arp(me.mac, NEIGHBOUR, "10.64.0.1")), "arp"),
    "gratuitous ARP for another": (
        lambda me: ethernet(me.mac, ARP, arp(me.mac, NEIGHBOUR, NEIGHBOUR, reply=True)), "arp"),
    "its address at another's MAC": (
        lambda me: ethernet(me.mac, ARP, arp(NEIGHBOUR_MAC, me.address, me.address)), "arp"),
    "tagged": (
        lambda me: ethernet(me.mac, ARP, arp(me.mac, me.address, "10.64.0.1"), vlan=100), "tagged"),
    "priority-tagged": (
        lambda me: ethernet(me.mac, ARP, arp(me.mac, me.address, "10.64.0.1"), vlan=0), "tagged"),
    "DHCP server": (
        lambda me: ethernet(me.mac, IP, ipv4(me.address, "255.255.255.255", udp(67, 68))), "dhcp"),
    "another protocol": (lambda me: ethernet(me.mac, 0x88CC, b"\x02\x07"), "other"),
}  # fmt: skip
FALSE_6: dict[str, tuple[Make, str]] = {
    "another's address": (
        lambda me: ethernet(me.mac, IPV6, ipv6(NEIGHBOUR6, "ff02::1", udp(9, 9))), "address"),
    "advertisement for another": (
        lambda me: ethernet(me.mac, IPV6, ipv6(me.address, "ff02::1", icmpv6(136, NEIGHBOUR6, me.mac), 58)),
        "nd"),
    "another's MAC in an advertisement": (
        lambda me: ethernet(
            me.mac, IPV6, ipv6(me.address, "ff02::1", icmpv6(136, me.address, NEIGHBOUR_MAC), 58)),
        "nd"),
    "another's MAC in a solicitation": (
        lambda me: ethernet(
            me.mac, IPV6, ipv6(me.address, "ff02::1", icmpv6(135, NEIGHBOUR6, NEIGHBOUR_MAC, 1), 58)),
        "nd"),
    "router advertisement": (
        lambda me: ethernet(me.mac, IPV6, ipv6(link_local(me.mac), "ff02::1", icmpv6(134, "::"), 58)), "nd"),
    "DHCP server": (lambda me: ethernet(me.mac, IPV6, ipv6(me.address, "ff02::1", udp(547, 546))), "dhcp"),
    "another's MAC": (
        lambda me: ethernet(NEIGHBOUR_MAC, IPV6, ipv6(me.address, "ff02::1", udp(9, 9))), "mac"),
}  # fmt: skip


def test_no_lie_of_ipv4_reaches_anybody_and_each_is_counted(rig: HostRig) -> None:
    who = speaker(rig)
    good = ethernet(who.mac, ARP, arp(who.mac, who.address, NEIGHBOUR))
    # What differs from a lie in one field only is heard, else its silence would prove nothing.
    true = {"true": ethernet(who.mac, IP, ipv4(who.address, "10.64.0.1", udp(9, 9)))}
    lies = {name: make(who) for name, (make, _) in FALSE_4.items()}
    assert heard(rig, who, {**lies, **true}, good) == {"true"}
    assert dropped(rig, who) == Counter(reason for _, reason in FALSE_4.values())


def test_no_lie_of_ipv6_reaches_anybody_and_each_is_counted(rig: HostRig) -> None:
    who = with_ipv6(rig)
    good = ethernet(who.mac, IPV6, ipv6(who.address, "ff02::1", icmpv6(136, who.address, who.mac), 58))
    true = {"true": ethernet(who.mac, IPV6, ipv6(who.address, "ff02::1", udp(9, 9)))}
    lies = {name: make(who) for name, (make, _) in FALSE_6.items()}
    assert heard(rig, who, {**lies, **true}, good) == {"true"}
    assert dropped(rig, who) == Counter(reason for _, reason in FALSE_6.values())


def _ping(who: Speaker, target: str) -> None:
    run("nsenter", f"--net={who.namespace}", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", target)


def _connect(who: Speaker, target: str) -> None:
    opened = NetworkNamespace(who.namespace)
    try:
        with opened.entered():
            connection = socket.create_connection((target, 8080), timeout=5)
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1")
        connection.close()
    finally:
        opened.close()


def _datagram(rig: HostRig, sender: Speaker, receiver: Speaker, group: str | None = None) -> None:
    """UDP from one to the other, or through a multicast group that the other joins."""
    family = socket.AF_INET6 if ":" in sender.address else socket.AF_INET
    here, there = NetworkNamespace(sender.namespace), NetworkNamespace(receiver.namespace)
    try:
        with there.entered():
            hearing = socket.socket(family, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("eth0")
            hearing.bind(("", 5353))
            if group and family == socket.AF_INET:
                member = struct.pack("4s4si", socket.inet_aton(group), b"\0" * 4, index)
                hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            elif group:
                member = socket.inet_pton(family, group) + struct.pack("i", index)
                hearing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        with here.entered():
            saying = socket.socket(family, socket.SOCK_DGRAM)
            device = socket.if_nametoindex("eth0")
            if family == socket.AF_INET:
                via = struct.pack("4s4si", b"\0" * 4, b"\0" * 4, device)
                saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, via)
            else:
                saying.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, device)
        hearing.settimeout(10)
        saying.sendto(b"to all", (group or receiver.address, 5353))
        assert hearing.recv(64) == b"to all"
        hearing.close()
        saying.close()
    finally:
        here.close()
        there.close()


def test_honest_traffic_of_ipv4_is_not_touched(rig: HostRig) -> None:
    one, two = speaker(rig), speaker(rig)
    _ping(one, two.address)
    until(lambda: rig.fetch(two.address) == two.order["task_id"], "an answer to the host")
    _connect(one, two.address)
    _datagram(rig, one, two)
    _datagram(rig, one, two, "239.1.2.3")
    assert (dropped(rig, one), dropped(rig, two)) == ({}, {})


def test_honest_traffic_of_ipv6_is_not_touched(rig: HostRig) -> None:
    one, two = with_ipv6(rig), with_ipv6(rig)
    _ping(one, two.address)
    _ping(one, f"{link_local(two.mac)}%eth0")
    _datagram(rig, one, two)
    _datagram(rig, one, two, "ff15::1:2")
    assert (dropped(rig, one), dropped(rig, two)) == ({}, {})


def test_what_is_barred_is_not_reached_from_either_side(rig: HostRig) -> None:
    one, two, third = speaker(rig), speaker(rig), speaker(rig)
    _ping(one, two.address)
    opened = NetworkNamespace(one.namespace)
    with opened.entered():
        standing = socket.create_connection((third.address, 8080), timeout=5)
    opened.close()
    [result] = rig.do({**one.order, "barred": [f"{two.address}/32"]})
    assert (result["status"], result["changed"], result["port"]) == ("done", True, one.port)
    assert ours(rig, one.address)[0]["barred"] == [f"{two.address}/32"]
    assert not rig.do({**one.order, "barred": [f"{two.address}/32"]})[0]["changed"]
    for sender, receiver in ((one, two), (two, one)):
        with pytest.raises(AssertionError):
            run("nsenter", f"--net={sender.namespace}", "ping", "-c", "1", "-W", "0.5", receiver.address)
    assert dropped(rig, one)["barred"] >= 2  # what it asked, and what it would have answered
    standing.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert standing.recv(64).startswith(b"HTTP/1"), "a connection to somebody else has gone on"
    standing.close()
    assert rig.do(one.order)[0]["changed"]
    _ping(one, two.address)
